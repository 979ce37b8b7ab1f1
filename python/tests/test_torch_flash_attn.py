# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Functions of other packages, by their signatures, against the definition in float64."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from packages import package

torch = package("torch")

import intflash  # noqa: E402
from intflash.torch import (  # noqa: E402
    active,
    flash_attn_func,
    flash_attn_varlen_func,
    flash_attn_with_kvcache,
    sageattn,
    sageattn_varlen,
)

LIMIT = 0.025
LSE_LIMIT = 0.03
QUERY_LENS, KEY_LENS = [30, 1, 7], [30, 100, 50]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def definition(q, k, v, causal=False, window=None, **options):
    """Of (batch, tokens, heads, dim)."""
    q, k, v = (tensor.transpose(1, 2).numpy() for tensor in (q, k, v))
    seen = oracle.visible(q.shape[2], k.shape[2], causal, window)
    out, lse = oracle.attend(q, k, v, seen=seen, **options)
    return out.swapaxes(1, 2), lse


@pytest.fixture
def inputs() -> list[torch.Tensor]:
    return [normal(2, n, heads, 64, seed=n) for n, heads in ((70, 4), (90, 2), (90, 2))]


@pytest.fixture
def ragged() -> tuple:
    q = normal(sum(QUERY_LENS), 4, 64, seed=1)
    k, v = (normal(sum(KEY_LENS), 2, 64, seed=seed) for seed in (2, 3))
    begins = [
        torch.tensor([0, *lens], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        for lens in (QUERY_LENS, KEY_LENS)
    ]
    return q, k, v, *begins, max(QUERY_LENS), max(KEY_LENS)


def apart(ragged: tuple) -> list[tuple]:
    q, k, v, *_ = ragged
    parts = zip(q.split(QUERY_LENS), k.split(KEY_LENS), v.split(KEY_LENS), strict=True)
    return [tuple(tensor[None] for tensor in part) for part in parts]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {}),
        ({"causal": True}, {"causal": True}),
        ({"window_size": (20, 5)}, {"window": (20, 5)}),
        ({"causal": True, "window_size": (20, 0)}, {"causal": True, "window": (20, 0)}),
        ({"softmax_scale": 0.05, "softcap": 2.0}, {"scale": 0.05, "cap": 2.0}),
        ({"alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.01])}, {"alibi": [0.5, 0.25, 0.1, 0.01]}),
    ],
)
def test_flash_attn_func_is_near_the_definition(inputs, options, wanted):
    out, lse, probabilities = flash_attn_func(*inputs, **options, return_attn_probs=True)
    expected, expected_lse = definition(*inputs, **wanted)
    assert oracle.relative_l1(out.numpy(), expected) <= LIMIT
    assert np.abs(lse.numpy() - expected_lse).max() <= LSE_LIMIT
    assert probabilities is None
    assert torch.equal(flash_attn_func(*inputs, **options), out)


def test_sequences_one_after_another_are_those_apart(ragged):
    for options in ({}, {"causal": True}, {"causal": True, "window_size": (9, 0)}):
        out, lse, _ = flash_attn_varlen_func(*ragged, **options, return_attn_probs=True)
        parts = [flash_attn_func(*p, **options, return_attn_probs=True) for p in apart(ragged)]
        assert torch.equal(out, torch.cat([part[0][0] for part in parts]))
        assert torch.equal(lse, torch.cat([part[1][0] for part in parts], 1))


def in_pages(tensor: torch.Tensor, table: torch.Tensor, page_size: int) -> torch.Tensor:
    pool = torch.full((int(table.max()) + 1, page_size, *tensor.shape[1:]), torch.nan)
    for i, rows in enumerate(tensor.split(KEY_LENS)):
        for page, part in enumerate(rows.split(page_size)):
            pool[table[i, page], : len(part)] = part
    return pool


def test_keys_in_pages_are_keys_in_a_row(ragged):
    q, k, v, *begins = ragged
    table = torch.tensor([[7, 0, 0, 0], [3, 1, 8, 2], [5, 4, 0, 0]], dtype=torch.int32)
    pages = [in_pages(tensor, table, 32) for tensor in (k, v)]
    wanted = flash_attn_varlen_func(*ragged, causal=True)
    out = flash_attn_varlen_func(q, *pages, *begins, causal=True, block_table=table)
    assert torch.equal(out, wanted)


def test_a_cache_of_floats_takes_new_keys_and_is_attended(inputs):
    q, k, v = inputs
    new_k, new_v = normal(2, 5, 2, 64, seed=4), normal(2, 5, 2, 64, seed=5)
    lens = torch.tensor([70, 33], dtype=torch.int32)
    caches = [k.clone(), v.clone()]
    out, lse = flash_attn_with_kvcache(
        q[:, :5], *caches, new_k, new_v, cache_seqlens=lens, causal=True, return_softmax_lse=True
    )
    for i, length in enumerate(lens.tolist()):
        keys, values = (
            torch.cat([old[i : i + 1, :length], new[i : i + 1]], 1)
            for old, new in ((k, new_k), (v, new_v))
        )
        wanted = flash_attn_func(
            q[i : i + 1, :5], keys, values, causal=True, return_attn_probs=True
        )
        assert torch.equal(out[i : i + 1], wanted[0])
        assert torch.equal(lse[i : i + 1], wanted[1])
        assert torch.equal(caches[0][i, : length + 5], keys[0])
        assert torch.equal(caches[0][i, length + 5 :], k[i, length + 5 :])
    again = flash_attn_with_kvcache(
        q[:1, :5],
        *caches,
        cache_seqlens=38,
        cache_batch_idx=torch.tensor([1]),
        cache_leftpad=torch.tensor([3]),
    )
    assert torch.equal(again, flash_attn_func(q[:1, :5], *(c[1:, 3:38] for c in caches)))


def test_a_cache_in_pages_is_one_in_a_row(inputs):
    q, k, v = inputs
    new_k, new_v = normal(2, 5, 2, 64, seed=4), normal(2, 5, 2, 64, seed=5)
    table = torch.tensor([[5, 0, 3], [1, 4, 2]], dtype=torch.int32)
    pools = [torch.zeros(6, 30, 2, 64) for _ in range(2)]
    for pool, tensor in zip(pools, (k, v), strict=True):
        for i in range(2):
            for page in range(3):
                pool[table[i, page]] = tensor[i, 30 * page : 30 * (page + 1)]
    lens = torch.tensor([70, 58])
    options = {"cache_seqlens": lens, "causal": True}
    wanted = flash_attn_with_kvcache(q[:, :5], k.clone(), v.clone(), new_k, new_v, **options)
    out = flash_attn_with_kvcache(q[:, :5], *pools, new_k, new_v, block_table=table, **options)
    assert torch.equal(out, wanted)


def test_sageattn_has_both_layouts_and_the_log_sum_exp(inputs):
    q, k, v = inputs
    heads_first = [tensor.transpose(1, 2) for tensor in inputs]
    out, lse = sageattn(*heads_first, return_lse=True, smooth_k=True)
    expected, expected_lse = definition(*inputs)
    assert oracle.relative_l1(out.transpose(1, 2).numpy(), expected) <= LIMIT
    assert np.abs(lse.numpy() - expected_lse).max() <= LSE_LIMIT
    assert torch.equal(sageattn(*inputs, tensor_layout="NHD"), out.transpose(1, 2))
    square = sageattn(k, k, v, "NHD", is_causal=True, sm_scale=0.05)
    expected, _ = definition(k, k, v, causal=True, scale=0.05)
    assert oracle.relative_l1(square.numpy(), expected) <= LIMIT


def test_sageattn_varlen_is_flash_attn_varlen_func(ragged):
    wanted = flash_attn_varlen_func(*ragged, causal=True, softmax_scale=0.05)
    assert torch.equal(sageattn_varlen(*ragged, is_causal=True, sm_scale=0.05), wanted)


def test_what_would_be_lost_is_refused(inputs, ragged):
    q, k, v = inputs
    refused = intflash.UnsupportedError
    with pytest.raises(refused, match="dropout_p"):
        flash_attn_func(*inputs, dropout_p=0.1)
    with pytest.raises(refused, match="dropout_p"):
        flash_attn_varlen_func(*ragged, dropout_p=0.1)
    with pytest.raises(refused, match="alibi_slopes"):
        flash_attn_func(*inputs, alibi_slopes=torch.ones(2, 4))
    with pytest.raises(refused, match="rotary_cos"):
        flash_attn_with_kvcache(*inputs, rotary_cos=torch.ones(90, 32))
    with pytest.raises(refused, match="an input requires grad"):
        flash_attn_func(q.clone().requires_grad_(), k, v)
    sageattn(*inputs, tensor_layout="NHD", attn_mask=None, dropout_p=0.0)  # nothing is lost
    with pytest.raises(intflash.ArgumentError, match="dropout_p"):
        sageattn(*inputs, dropout_p=0.5)
    with pytest.raises(intflash.ArgumentError, match="tensor_layout"):
        sageattn(*inputs, tensor_layout="HDN")
    with pytest.raises(intflash.ShapeError, match="as many queries as keys"):
        sageattn(*inputs, tensor_layout="NHD", is_causal=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own use of itself
def test_compiled_code_refuses_inputs_whose_gradient_is_wanted(inputs, ragged):
    torch._dynamo.reset()
    for function, arguments in ((flash_attn_func, inputs), (flash_attn_varlen_func, ragged)):
        wanting = [arguments[0].clone().requires_grad_(), *arguments[1:]]
        compiled = torch.compile(function, fullgraph=True)
        with pytest.raises(Exception, match="requires grad"):
            compiled(*wanting)
        with torch.no_grad():
            assert torch.equal(compiled(*wanting), function(*arguments))


@pytest.mark.parametrize("begins", [[0, 30, 20, 38], [0, 30, 31], [1, 30, 31, 38], [0, 38, 39]])
def test_sequences_that_do_not_cover_the_rows_are_refused(ragged, begins):
    q, k, v, _, *others = ragged
    with pytest.raises(intflash.ShapeError):
        flash_attn_varlen_func(q, k, v, torch.tensor(begins, dtype=torch.int32), *others)


def test_begins_that_are_no_whole_numbers_are_refused(ragged):
    q, k, v, begins, key_begins, *others = ragged
    for given in ((begins.float(), key_begins), (begins, key_begins.double())):
        with pytest.raises(intflash.ArgumentError, match="are no numbers of rows"):
            flash_attn_varlen_func(q, k, v, *given, *others)


def test_key_lengths_and_pages_that_are_not_there_are_refused(ragged):
    q, k, v, begins, key_begins, *_ = ragged
    rest = (False, -1, -1, None, 0.0, None)

    def run(*where: object, key: torch.Tensor = k, value: torch.Tensor = v) -> torch.Tensor:
        return torch.ops.intflash.ragged.default(q, key, value, begins, *where, *rest)[0]

    lens = torch.tensor([30, 40, 50], dtype=torch.int32)
    assert torch.equal(run(key_begins, lens, None)[:30], run(key_begins, None, None)[:30])
    table = torch.tensor([[7, 0, 0, 0], [3, 1, 8, 2], [5, 4, 0, 0]], dtype=torch.int32)
    pools = {name: in_pages(tensor, table, 32) for name, tensor in (("key", k), ("value", v))}
    full = torch.tensor(KEY_LENS)
    assert torch.equal(run(None, full, table, **pools), run(key_begins, None, None))
    for index, value, wanted in (
        (1, 101, "key lengths"),
        (0, -1, "key lengths"),
        (slice(0, 2), 31, "key lengths"),
    ):
        changed = full.clone()
        changed[index] = value
        with pytest.raises(intflash.ShapeError, match=wanted):
            run(key_begins, changed, None)
    for lens in (full + 40, full - 31, full[:2]):
        with pytest.raises(intflash.ShapeError, match="key lengths"):
            run(None, lens, table, **pools)
    with pytest.raises(intflash.ShapeError, match="pages want the key lengths"):
        run(None, None, table, **pools)
    for page in (-1, 9):
        changed = table.clone()
        changed[1, 2] = page
        with pytest.raises(intflash.ArgumentError, match="there are 9 of them"):
            run(None, full, changed, **pools)
        changed[1, 2], changed[0, 1] = 8, page  # beyond its keys, where nobody reads
        assert torch.equal(run(None, full, changed, **pools), run(None, full, table, **pools))


def test_operators_keep_the_dispatchers_rules(ragged):
    q, k, v, begins, key_begins, *_ = ragged
    arguments = (q, k, v, begins, key_begins, None, None, True, -1, -1, None, 0.0, None)
    torch.library.opcheck(torch.ops.intflash.ragged.default, arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own use of itself
def test_compiled_equals_eager(inputs, ragged):
    torch._dynamo.reset()
    for function, arguments in (
        (flash_attn_func, (*inputs, 0.0, None, True)),
        (flash_attn_varlen_func, (*ragged, 0.0, None, True)),
        (sageattn, (*inputs, "NHD")),
    ):
        compiled = torch.compile(function, fullgraph=True)
        assert torch.equal(compiled(*arguments), function(*arguments))


def test_varlen_attn_computes_on_the_cpu_while_it_is_active(ragged):
    varlen = package("torch.nn.attention.varlen")
    q, k, v, *begins = ragged
    options = {"return_aux": varlen.AuxRequest(lse=True), "enable_gqa": True}
    for window in ((-1, -1), (-1, 0), (9, 0)):
        wanted = flash_attn_varlen_func(*ragged, window_size=window, return_attn_probs=True)
        with active():
            out, lse = varlen.varlen_attn(q, k, v, *begins, window_size=window, **options)
        assert torch.equal(out, wanted[0])
        assert torch.equal(lse, wanted[1])
    with pytest.raises(NotImplementedError, match="_flash_attention_forward"):
        varlen.varlen_attn(q, k, v, *begins, **options)
    table = torch.tensor([[7, 0, 0, 0], [3, 1, 8, 2], [5, 4, 0, 0]], dtype=torch.int32)
    pages = [in_pages(tensor, table, 32) for tensor in (k, v)]
    with active():
        out = varlen.varlen_attn(
            q,
            *pages,
            begins[0],
            None,
            *begins[2:],
            enable_gqa=True,
            seqused_k=torch.tensor(KEY_LENS, dtype=torch.int32),
            block_table=table,
        )
    assert torch.equal(out, flash_attn_varlen_func(*ragged))


@pytest.mark.parametrize("lens", [16, 99, -3, None])
def test_a_cache_without_room_for_new_tokens_is_refused_and_left_as_it_is(lens):
    k_cache, v_cache = (torch.zeros(1, 16, 2, 64) for _ in range(2))
    q, new = normal(1, 1, 2, 64, seed=1), normal(1, 1, 2, 64, seed=2)
    with pytest.raises(intflash.ArgumentError, match="cache_seqlens"):
        flash_attn_with_kvcache(q, k_cache, v_cache, new, new, cache_seqlens=lens)
    assert not k_cache.any()
    assert not v_cache.any()
