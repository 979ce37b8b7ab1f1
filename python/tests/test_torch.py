# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's tensors, where it is installed."""

from __future__ import annotations

import pytest
from packages import package

torch = package("torch")

import intflash  # noqa: E402


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_tensors_give_tensors_and_the_bits_of_arrays(dtype):
    of_out = torch.float32 if dtype.itemsize == 1 else dtype
    query = torch.randn(2, 4, 30, 64).to(dtype)
    key = torch.randn(2, 50, 2, 64).to(dtype).transpose(1, 2)
    out, lse = intflash.attend(query, key, key, causal=True, lse=True)  # which copies nothing
    assert (type(out), out.dtype, lse.dtype) == (torch.Tensor, of_out, torch.float32)
    wide = intflash.attend(*(tensor.float().numpy() for tensor in (query, key, key)), causal=True)
    assert torch.equal(out, torch.from_numpy(wide).to(of_out))
    mask = torch.ones(30, 50, dtype=torch.bool).tril(20)
    assert torch.equal(intflash.attend(query, key, key, mask=mask), out)
    given = torch.empty_like(out)
    assert intflash.attend(query, key, key, causal=True, out=given) is given
    assert torch.equal(given, out)


def test_tensors_that_require_grad_are_refused_while_grad_is_on():
    tensor = torch.randn(1, 2, 4, 8, requires_grad=True)
    with pytest.raises(intflash.UnsupportedError, match="query requires grad"):
        intflash.attend(tensor, tensor, tensor)
    with torch.no_grad():
        out = intflash.attend(tensor, tensor, tensor)
    assert torch.equal(out, intflash.attend(*[tensor.detach()] * 3))


def test_tensors_elsewhere_and_of_other_dtypes_are_refused():
    tensor = torch.randn(1, 2, 4, 8)
    with pytest.raises(intflash.UnsupportedError, match="query .*meta"):
        intflash.attend(tensor.to("meta"), tensor, tensor)
    with pytest.raises(intflash.UnsupportedError, match="key has dtype torch.float64"):
        intflash.attend(tensor, tensor.double(), tensor)


def test_the_number_of_threads_is_torchs():
    before = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert intflash.info().threads == count
    finally:
        torch.set_num_threads(before)


def test_a_cache_takes_and_gives_tensors():
    cache = intflash.Cache(kv_heads=2, head_dim=64, pages=9)
    sequences = [cache.sequence(), cache.sequence()]
    query, key = (torch.randn(2, 5, heads, 64).transpose(1, 2) for heads in (4, 2))
    cache.append(sequences, key, key)
    wanted = intflash.attend(query, key, key, causal=True, score_digits=1)
    assert torch.equal(cache.attend(sequences, query), wanted)


def test_views_that_are_yet_to_be_negated_are_refused():
    tensor = torch.randn(1, 2, 4, 8)
    with pytest.raises(intflash.UnsupportedError, match="resolve_neg"):
        intflash.attend(torch._neg_view(tensor), tensor, tensor)


def test_results_are_on_the_cpu_whatever_the_default_device_is():
    tensor = torch.randn(1, 2, 4, 8)
    torch.set_default_device("meta")
    try:
        out, lse = intflash.attend(tensor, tensor, tensor, lse=True)
    finally:
        torch.set_default_device(None)
    assert (out.device.type, lse.device.type) == ("cpu", "cpu")


def test_codes_trees_and_tables_may_be_tensors():
    query, value = torch.randn(2, 4, 30, 64), torch.randn(2, 2, 50, 64)
    codes = torch.randint(-127, 128, (2, 2, 50, 64), dtype=torch.int8)
    scale, tree = torch.rand(2, 2, 50) / 127, torch.rand(30, 9) < 0.5
    options = {"key_scale": scale, "tree": tree, "center": (None, torch.ones(2, 64))}
    given = {name: option for name, option in options.items() if name != "center"}
    out = intflash.attend(query, codes, value, **given)
    arrays = {name: option.numpy() for name, option in given.items()}
    wanted = intflash.attend(*(t.numpy() for t in (query, codes, value)), **arrays)
    assert torch.equal(out, torch.from_numpy(wanted))
    by_pair = intflash.attend(query, query[:, ::2], value[:, :, :30], center=options["center"])
    assert by_pair.dtype == torch.float32
    rope = intflash.Rope(torch.ones(9, 32), torch.zeros(9, 32))  # turns by nothing
    cache = intflash.Cache(kv_heads=2, head_dim=64, pages=9)
    first, second = cache.sequence(), cache.sequence()
    cache.append([first], value[:1, :, :9], value[:1, :, :9], rope=rope)
    cache.append([second], value[:1, :, :9], value[:1, :, :9])
    assert first.to_bytes() == second.to_bytes()


def test_results_lie_in_order_whatever_the_inputs_strides_are():
    tensor = torch.randn(2, 5, 3, 64).transpose(1, 2)
    assert intflash.attend(tensor, tensor, tensor).is_contiguous()
    assert intflash.attend(*[tensor.contiguous()] * 3).is_contiguous()
