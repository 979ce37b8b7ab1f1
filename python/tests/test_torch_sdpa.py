# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""intflash.torch.sdpa against PyTorch's own attention in float64."""

from __future__ import annotations

import threading

import pytest
from packages import package

torch = package("torch")

import torch.nn.functional as F  # noqa: E402, N812

import intflash.torch  # noqa: E402
from intflash.torch import last_reason, sdpa  # noqa: E402

LIMIT = 0.025  # relative L1, of normal numbers and a few hundred keys


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def wide(tensor: object) -> object:
    is_float = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    return tensor.double() if is_float else tensor


def relative_l1(out: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((out.double() - wanted).abs().sum() / wanted.abs().sum())


def expect_near(*tensors: torch.Tensor, limit: float = LIMIT, **options: object) -> torch.Tensor:
    out = sdpa(*tensors, **options)
    assert last_reason() is None
    wanted = F.scaled_dot_product_attention(
        *map(wide, tensors), **{name: wide(option) for name, option in options.items()}
    )
    assert out.shape == wanted.shape
    assert out.dtype == tensors[0].dtype
    assert relative_l1(out, wanted) <= limit
    return out


@pytest.fixture
def inputs() -> list[torch.Tensor]:
    return [
        normal(2, 4, 70, 64, seed=1),
        normal(2, 4, 200, 64, seed=2),
        normal(2, 4, 200, 64, seed=3),
    ]


def test_plain_attention_is_near_float64(inputs):
    expect_near(*inputs)
    expect_near(*inputs, scale=0.05)
    expect_near(*inputs[:2], inputs[2][..., :48])


def test_causality_is_aligned_at_the_top_left(inputs):
    expect_near(*inputs, is_causal=True)
    expect_near(inputs[1], inputs[0], inputs[0], is_causal=True)
    expect_near(*inputs, is_causal=True, attn_mask=normal(70, 200, seed=1) > 0)


@pytest.mark.parametrize(
    "shape",
    [
        (70, 200),
        (1, 200),
        (70, 1),
        (4, 70, 200),
        (2, 1, 70, 200),
        (2, 4, 70, 200),
        (1, 1, 1, 200),
        (2, 1, 70, 1),
    ],
)
def test_masks_of_booleans_and_numbers_broadcast(inputs, shape):
    bias = normal(*shape, seed=4)
    keep = bias > -1
    expect_near(*inputs, attn_mask=bias)
    kept = expect_near(*inputs, attn_mask=keep)
    hidden = torch.zeros(shape).masked_fill(~keep, -torch.inf)
    assert torch.equal(sdpa(*inputs, attn_mask=hidden), kept)


def test_masks_are_read_by_their_strides(inputs):
    keep = normal(200, 70, seed=5) > -1
    expect_near(*inputs, attn_mask=keep.T)
    expect_near(*inputs, attn_mask=(normal(70, 400, seed=6) > -1)[:, ::2])
    expect_near(*inputs, attn_mask=keep.T.contiguous().expand(2, 4, 70, 200))


def test_rows_that_see_no_key_are_zero(inputs):
    keep = torch.ones(70, 200, dtype=torch.bool)
    keep[3] = False
    assert not expect_near(*inputs, attn_mask=keep)[:, :, 3].any()


def test_grouped_heads_are_those_of_enable_gqa(inputs):
    query, key, value = inputs
    expect_near(query, key[:, :2], value[:, :2], enable_gqa=True)
    expect_near(query, key[:, :1], value[:, :1], enable_gqa=True)
    with pytest.raises(RuntimeError):
        sdpa(query, key[:, :2], value[:, :2])
    assert "heads" in last_reason()


def test_batches_and_heads_of_one_broadcast(inputs):
    query, key, value = inputs
    expect_near(query, key[:1], value)
    expect_near(query[:1], key, value[:1])
    expect_near(query, key[:, :1], value)
    expect_near(query[:, :1], key, value)
    expect_near(query[:1], key[:1, :2], value[:, :2], enable_gqa=True)


def test_three_dimensions_are_served(inputs):
    query, key, value = (tensor[0] for tensor in inputs)
    expect_near(query, key, value)
    expect_near(query, key, value, is_causal=True)
    expect_near(query, key, value, attn_mask=normal(4, 70, 200, seed=7))
    expect_near(query, key[:2], value[:2], enable_gqa=True)
    assert torch.equal(sdpa(query, key, value), sdpa(*inputs)[0])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 0.026), (torch.bfloat16, 0.03)])
def test_sixteen_bits_are_served(inputs, dtype, limit):
    expect_near(*(tensor.to(dtype) for tensor in inputs), limit=limit)


def test_strided_inputs_are_served_and_the_output_lies_as_query_does(inputs):
    views = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in inputs]
    wanted = sdpa(*inputs)
    assert torch.equal(sdpa(*views), wanted)
    assert sdpa(*views).stride() == F.scaled_dot_product_attention(*views).stride()
    spread = [tensor.repeat_interleave(2, dim=3)[..., ::2] for tensor in inputs]
    assert torch.equal(sdpa(*spread), wanted)


def test_negated_views_are_read_with_their_sign(inputs):
    query, key, value = inputs
    assert torch.equal(sdpa(query, key, torch._neg_view(value)), sdpa(query, key, -value))


@pytest.mark.parametrize(
    ("query_shape", "key_tokens"), [((0, 4, 3, 64), 5), ((2, 4, 0, 64), 5), ((2, 4, 3, 64), 0)]
)
def test_empty_inputs_are_as_pytorchs(query_shape, key_tokens):
    query = normal(*query_shape, seed=1)
    key = normal(query_shape[0], 4, key_tokens, 64, seed=2)
    out = sdpa(query, key, key)
    assert last_reason() is None
    assert torch.equal(out, F.scaled_dot_product_attention(query, key, key))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_integers_do_not_serve_goes_to_the_original(inputs):
    def expect_handed_over(reason: str, *tensors: torch.Tensor, **options: object) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            out = sdpa(*tensors, **options)
        assert reason in last_reason()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            wanted = F.scaled_dot_product_attention(*tensors, **options)
        if not out.is_nested:
            assert torch.equal(out.nan_to_num(), wanted.nan_to_num())
        return out

    query, key, value = inputs
    expect_handed_over("dropout_p is 0.5", *inputs, dropout_p=0.5)
    expect_handed_over("float64", *map(wide, inputs))
    expect_handed_over("head dimension is 63", query[..., 1:], key[..., 1:], value)
    expect_handed_over("5 dim", query[None], key[None], value[None])
    expect_handed_over("scale is -1.0", *inputs, scale=-1.0)
    holes = key.clone()
    holes[1, 2, 3, 4] = torch.nan
    expect_handed_over("key", query, holes, value)
    expect_handed_over("key", query, holes, value, attn_mask=torch.ones(70, 200).bool())
    rows = [tensor.transpose(1, 2) for tensor in inputs]
    nested = [
        torch.nested.nested_tensor([row[0], row[1]], layout=torch.jagged).transpose(1, 2)
        for row in rows
    ]
    expect_handed_over("query is nested", *nested)
    sdpa(*inputs)
    assert last_reason() is None


@pytest.mark.parametrize("scale", [1e-60, 1e39, float("inf")])
def test_scales_beyond_float32_are_the_originals(inputs, scale):
    wanted = F.scaled_dot_product_attention(*inputs, scale=scale)
    torch.testing.assert_close(sdpa(*inputs, scale=scale), wanted, equal_nan=True)
    assert "scale" in last_reason()


def test_no_heads_are_the_originals():
    none = torch.zeros(1, 0, 5, 64)
    assert sdpa(none, none, none).shape == none.shape
    assert "heads" in last_reason()


def test_a_dropout_that_is_no_share_raises_the_originals_error(inputs):
    with pytest.raises(RuntimeError, match="dropout"):
        sdpa(*inputs, dropout_p=-0.5)


def test_autocast_computes_in_its_own_dtype(inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sdpa(*inputs).dtype == torch.bfloat16
    assert "autocast" in last_reason()


def test_gradients_are_the_originals(inputs):
    query, key, value = inputs
    for name, which in (("query", 0), ("key", 1), ("value", 2)):
        given = [tensor.clone() for tensor in inputs]
        given[which].requires_grad_()
        sdpa(*given).sum().backward()
        assert last_reason() == f"{name} requires grad: there are no gradients"
        ours = given[which].grad
        given[which].grad = None
        F.scaled_dot_product_attention(*given).sum().backward()
        assert torch.equal(ours, given[which].grad)
        with torch.no_grad():
            assert torch.equal(sdpa(*given), sdpa(*inputs))
        assert last_reason() is None
    bias = normal(70, 200, seed=8).requires_grad_()
    sdpa(*inputs, attn_mask=bias).sum().backward()
    assert last_reason().startswith("attn_mask requires grad")


def test_what_the_original_refuses_raises_its_error(inputs):
    query, key, value = inputs
    for given, options in (
        ((query, key.half(), value), {}),
        ((query, key[..., :32], value), {}),
        ((query, key, value), {"attn_mask": torch.ones(70, 199).bool()}),
    ):
        with pytest.raises((RuntimeError, ValueError)) as raised:
            sdpa(*given, **options)
        assert not isinstance(raised.value, intflash.Error)
        assert last_reason() is not None


def test_the_reason_is_a_threads_own(inputs):
    sdpa(*inputs, dropout_p=0.5)
    others = []

    def look() -> None:
        others.append(last_reason())
        sdpa(*inputs)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert others == [None]
    assert last_reason() is not None


def test_any_number_of_threads_gives_the_same_bits(inputs):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = sdpa(*inputs)
        torch.set_num_threads(3)
        assert torch.equal(sdpa(*inputs), one)
    finally:
        torch.set_num_threads(before)


def test_operators_keep_the_dispatchers_rules(inputs):
    query, key, value = inputs
    narrow = value[..., :48]
    views = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in inputs]
    spread = query.repeat_interleave(2, dim=3)[..., ::2]
    keep = normal(70, 200, seed=9) > -1
    for arguments in (
        (query, key, value, None, True, None),
        (query, key, narrow, keep, False, 0.1),
        (*views, None, False, None),
        (spread, key, value, keep.expand(2, 4, 70, 200), False, None),
        (query[0], key[0], value[0], normal(4, 70, 1, seed=1), False, None),
    ):
        torch.library.opcheck(torch.ops.intflash.sdpa.default, arguments)
    sinks, slopes = normal(4, seed=1), normal(4, seed=2).abs()
    for arguments in (
        (query, key, narrow, None, "bottom_right", 20, 0, None, 0.0, sinks, None, True),
        (*views, keep, "", -1, -1, 0.1, 3.0, None, slopes, False),
    ):
        torch.library.opcheck(torch.ops.intflash.attend.default, arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own use of itself
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager(inputs, backend):
    def block(query, key, value, mask, is_causal):
        out = sdpa(query * 2, key, value, attn_mask=mask, is_causal=is_causal, enable_gqa=True)
        return out.transpose(1, 2).reshape(query.shape[0], query.shape[2], -1) + 1

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    query, key, value = inputs
    views = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in inputs]
    keep = normal(70, 200, seed=9) > -1
    for arguments in (
        (query, key, value, None, True),
        (query, key[:, :2], value[:, :2], keep, False),
        (*views, keep[:, None, :][:, 0], False),
        (query[:, :, :31], key[:, :, :77], value[:, :, :77], None, False),
        (query[:, :, :33], key[:, :, :79], value[:, :, :79], None, False),
    ):
        assert torch.equal(compiled(*arguments), block(*arguments))
