# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""All of a process's attention, and PyTorch's own afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest
from packages import package

torch = package("torch")

import torch.nn.functional as F  # noqa: E402, N812

from intflash.torch import activate, active, deactivate, is_active, last_reason, sdpa  # noqa: E402


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def inputs() -> list[torch.Tensor]:
    return [normal(2, 4, tokens, 64, seed=tokens) for tokens in (70, 200, 200)]


@pytest.fixture(autouse=True)
def _inactive_afterwards():
    yield
    deactivate()


def test_importing_changes_nothing():
    program = (
        "import torch; get = lambda: torch._C._dispatch_dump("
        "'aten::_scaled_dot_product_flash_attention_for_cpu'); before = get();"
        "import intflash.torch; assert get() == before; intflash.torch.activate();"
        "assert get() != before"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_sdpa_is_ours_while_it_is_active_and_the_originals_before_and_after(inputs):
    original = F.scaled_dot_product_attention(*inputs)
    with active():
        assert is_active()
        assert torch.equal(F.scaled_dot_product_attention(*inputs), sdpa(*inputs))
        assert last_reason() is None
    assert not is_active()
    assert not torch.equal(original, sdpa(*inputs))
    assert torch.equal(F.scaled_dot_product_attention(*inputs), original)


def test_activating_twice_is_once_and_an_inner_with_leaves_it(inputs):
    original = F.scaled_dot_product_attention(*inputs)
    activate()
    activate()
    with active():
        pass
    assert torch.equal(F.scaled_dot_product_attention(*inputs), sdpa(*inputs))
    deactivate()
    deactivate()
    assert torch.equal(F.scaled_dot_product_attention(*inputs), original)
    activate()
    assert torch.equal(F.scaled_dot_product_attention(*inputs), sdpa(*inputs))


def test_options_arrive(inputs):
    query, key, value = inputs
    bias = normal(70, 200, seed=1)
    for given, options in (
        (inputs, {"is_causal": True}),
        (inputs, {"attn_mask": bias}),
        (inputs, {"attn_mask": bias > -1}),
        (inputs, {"scale": 0.05}),
        ((query, key[:, :2], value[:, :2]), {"enable_gqa": True}),
        ([tensor.bfloat16() for tensor in inputs], {}),
    ):
        ours = sdpa(*given, **options)
        with active():
            assert torch.equal(F.scaled_dot_product_attention(*given, **options), ours)
            assert last_reason() is None


def test_the_log_sum_exp_is_returned_as_the_original_does(inputs):
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    _, wanted = operator(*inputs)
    with active():
        _, lse = operator(*inputs)
    assert lse.stride() == wanted.stride()
    assert (lse - wanted).abs().max() < 0.03


def test_what_is_not_served_goes_to_the_original(inputs):
    query, key, value = inputs
    holes = key.clone()
    holes[0, 0, 0, 0] = torch.nan
    for given, reason in (
        ([tensor.double() for tensor in inputs], "float64"),
        ((query[..., :63], key[..., :63], value[..., :63]), "63"),
        ((query, holes, value), "key"),
    ):
        wanted = F.scaled_dot_product_attention(*given)
        with active():
            out = F.scaled_dot_product_attention(*given)
            assert reason in last_reason()
        assert torch.equal(out.nan_to_num(), wanted.nan_to_num())


def test_gradients_are_the_originals(inputs):
    def gradients() -> list[torch.Tensor]:
        given = [tensor.clone().requires_grad_() for tensor in inputs]
        F.scaled_dot_product_attention(*given, is_causal=True).sum().backward()
        return [tensor.grad for tensor in given]

    wanted = gradients()
    with active():
        ours = gradients()
        assert last_reason() == "query requires grad: there are no gradients"
    assert all(map(torch.equal, ours, wanted))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own use of itself
def test_compiled_code_is_taken_too(inputs):
    torch._dynamo.reset()
    compiled = torch.compile(F.scaled_dot_product_attention, fullgraph=True)
    with torch.no_grad(), active():
        assert torch.equal(compiled(*inputs, is_causal=True), sdpa(*inputs, is_causal=True))


def test_modules_are_taken():
    torch.manual_seed(1)
    module = torch.nn.MultiheadAttention(128, 4, batch_first=True).eval()
    rows = normal(2, 50, 128, seed=1)
    with torch.no_grad():
        original, _ = module(rows[:, :9], rows, rows, need_weights=False)
        with active():
            out, _ = module(rows[:, :9], rows, rows, need_weights=False)
    assert not torch.equal(out, original)
    assert (out - original).abs().sum() / original.abs().sum() < 0.03


def test_the_log_of_a_row_without_keys_is_the_originals():
    tensor = torch.randn(1, 2, 4, 8)
    mask = torch.zeros(4, 4)
    mask[1] = -torch.inf
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    _, wanted = operator(tensor, tensor, tensor, attn_mask=mask)
    with active():
        _, lse = operator(tensor, tensor, tensor, attn_mask=mask)
    assert last_reason() is None
    assert torch.equal(lse[:, :, 1], wanted[:, :, 1])
