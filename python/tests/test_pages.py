# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Pages in memory of others: the bytes and bits of Cache, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import attend, random, relative_l1, visible

import intflash

LAYERS, HEADS, KV_HEADS, DIM, DIM_V, PAGE, COUNT = 2, 4, 2, 32, 48, 64, 40
PAGE_BYTES = PAGE * KV_HEADS * (DIM + DIM_V + 12)


def aligned(size: int) -> np.ndarray:
    """Bytes that are no codes, at a multiple of 64."""
    memory = np.full(size + 64, 0x85, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:size]


def make_pages(memory: list | None = None, **options: object) -> intflash.Pages:
    memory = [aligned(COUNT * PAGE_BYTES) for _ in range(LAYERS)] if memory is None else memory
    shape = {"kv_heads": KV_HEADS, "head_dim": DIM, "head_dim_v": DIM_V, "pages": COUNT}
    return intflash.Pages(memory, **{**shape, "page_size": PAGE, **options})


def slots_of(table: list[int], begin: int, end: int) -> np.ndarray:
    position = np.arange(begin, end)
    return np.array(table)[position // PAGE] * PAGE + position % PAGE


def tokens(count: int, seed: int) -> list[np.ndarray]:
    """Query, key and value, (count, heads, dim)."""
    shapes = ((HEADS, DIM), (KV_HEADS, DIM), (KV_HEADS, DIM_V))
    return [random(count, *shape, seed=seed + i) for i, shape in enumerate(shapes)]


def test_pages_of_callers_have_no_window():
    memory = [np.zeros(2**16, "u1")]
    with pytest.raises(intflash.ArgumentError, match="window_blocks is 1"):
        intflash.Pages(memory, kv_heads=1, head_dim=16, pages=4, codec="k4v4", window_blocks=1)


def test_batches_over_tables_give_the_bits_of_attend_in_any_order_of_pages():
    pages = make_pages()
    tables, lengths = [[7, 2, 31], [4, 39], [0]], [150, 100, 9]
    query_lens = [30, 1, 9]
    data = [[tokens(n, 10 * i + 100 * layer) for layer in range(LAYERS)]
            for i, n in enumerate(lengths)]  # fmt: skip
    for begin, end in ((0, 5), (5, 70), (70, 150)):
        parts = [slice(begin, min(end, n)) for n in lengths]
        slots = np.concatenate(
            [slots_of(t, p.start, max(p.start, p.stop)) for t, p in zip(tables, parts, strict=True)]
        )
        for layer in range(LAYERS):
            key, value = (
                np.concatenate([d[layer][i][p] for d, p in zip(data, parts, strict=True)])
                for i in (1, 2)
            )
            pages.append(key, value, slots, layer=layer)
    batch = intflash.Batch(pages, [*tables[:2], [0, -5]], query_lens, lengths)
    for layer in range(LAYERS):
        queries = [d[layer][0][-n:] for d, n in zip(data, query_lens, strict=True)]
        out, lse = batch.run(np.concatenate(queries), layer=layer, lse=True)
        begin = 0
        for query, d in zip(queries, data, strict=True):
            inputs = [array.swapaxes(0, 1) for array in (query, *d[layer][1:])]
            wanted, wanted_lse = intflash.attend(*inputs, causal=True, score_digits=1, lse=True)
            rows = slice(begin, begin + len(query))
            assert np.array_equal(out[rows], wanted.swapaxes(0, 1))
            assert np.array_equal(lse[:, rows], wanted_lse)
            begin += len(query)


def test_the_bytes_are_the_documented_ones_and_may_be_moved():
    memory = [aligned(COUNT * PAGE_BYTES)]
    pages = make_pages(memory)
    assert pages.info().page_bytes == PAGE_BYTES
    assert pages.info().free_pages == COUNT
    query, key, value = tokens(80, 1)
    untouched = memory[0].copy()
    pages.append(key, value, slots_of([3, 5], 0, 80))
    by_page = memory[0].reshape(COUNT, PAGE_BYTES)
    changed = (by_page != untouched.reshape(COUNT, PAGE_BYTES)).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [3, 5]
    out = intflash.Batch(pages, [[3, 5]], kv_lens=[80]).run(query[-1:])
    assert relative_l1(out[0], attend(*(a.swapaxes(0, 1)[None] for a in (query[-1:], key, value)))
                       [0][0, :, 0]) < 0.02  # fmt: skip
    by_page[[11, 12]] = by_page[[3, 5]]
    by_page[[3, 5]] = 0
    moved = intflash.Batch(pages, [[11, 12]], kv_lens=[80]).run(query[-1:])
    assert np.array_equal(moved, out)
    again = intflash.Pages(memory, kv_heads=KV_HEADS, head_dim=DIM, head_dim_v=DIM_V, pages=COUNT)
    assert np.array_equal(intflash.Batch(again, [[11, 12]], kv_lens=[80]).run(query[-1:]), out)


def test_tokens_of_slot_minus_one_are_not_stored_nor_read():
    pages = make_pages()
    query, key, value = tokens(3, 1)
    key[1] = np.nan
    pages.append(key, value, np.array([128, -1, 129]))
    out = intflash.Batch(pages, [[2]], kv_lens=[2]).run(query[:1])
    other = make_pages()
    other.append(key[::2], value[::2], np.array([0, 1]))
    assert np.array_equal(out, intflash.Batch(other, [[0]], kv_lens=[2]).run(query[:1]))


def test_pages_that_a_window_has_passed_change_no_bit():
    pages = make_pages()
    query, key, value = tokens(300, 1)
    table = [9, 8, 7, 6, 5]
    pages.append(key, value, slots_of(table, 0, 300))
    whole = intflash.Batch(pages, [table], [20], [300], window=(99, 0))
    assert whole.kv_lens == [300]
    rest = intflash.Batch(pages, [table[2:]], [20], [300], first_positions=[128], window=(99, 0))
    out = whole.run(query[-20:])
    assert np.array_equal(rest.run(query[-20:]), out)
    seen = visible(20, 300, causal=True, window=(99, 0))
    inputs = (array.swapaxes(0, 1)[None] for array in (query[-20:], key, value))
    assert relative_l1(out, attend(*inputs, seen)[0][0].swapaxes(0, 1)) < 0.03


def test_pages_hold_on_to_memory_that_nobody_else_has():
    pages = make_pages()
    query, key, value = tokens(70, 1)
    pages.append(key, value, slots_of([1, 0], 0, 70))
    batch = intflash.Batch(pages, [[1, 0]], kv_lens=[70])
    out = batch.run(query[-1:])
    del pages
    assert np.array_equal(batch.run(query[-1:]), out)


def test_a_cache_may_lie_in_memory_of_the_callers():
    shape = {"kv_heads": KV_HEADS, "head_dim": DIM, "head_dim_v": DIM_V, "pages": COUNT}
    memory = [aligned(COUNT * PAGE_BYTES) for _ in range(LAYERS)]
    untouched = [layer.copy() for layer in memory]
    caches = [intflash.Cache(memory, **shape), intflash.Cache(layers=LAYERS, **shape)]
    assert [cache.info().layers for cache in caches] == [LAYERS, LAYERS]
    sequences = [cache.sequence() for cache in caches]
    for layer in range(LAYERS):
        query, key, value = tokens(100, layer)
        outs = []
        for cache, sequence in zip(caches, sequences, strict=True):
            cache.append([sequence], key, value, layer=layer)
            outs.append(cache.attend([sequence], query[-1:], layer=layer))
        assert np.array_equal(*outs)
        assert not np.array_equal(memory[layer], untouched[layer])
    assert sequences[0].to_bytes() == sequences[1].to_bytes()
    with pytest.raises(intflash.ArgumentError, match="memory has 2 arrays: one for each layer"):
        intflash.Cache(memory, layers=3, **shape)
    with pytest.raises(intflash.ArgumentError, match="memory has 0 arrays"):
        intflash.Pages(**shape)


@pytest.mark.parametrize(
    ("memory", "error", "message"),
    [
        (lambda: [], "ArgumentError", "memory has 0 arrays: one for each layer"),
        (lambda: ["text"], "ArgumentError", "memory is .*str"),
        (lambda: [aligned(2 * COUNT * PAGE_BYTES)[::2]], "ArgumentError", "without gaps"),
        (lambda: [bytes(COUNT * PAGE_BYTES)], "ArgumentError", "can be written to"),
        (lambda: [aligned(COUNT * PAGE_BYTES), aligned(64)], "ShapeError", "64 bytes for layer 1"),
        (lambda: [aligned(COUNT * PAGE_BYTES - 64)], "ArgumentError", "arena"),
        (lambda: [aligned(COUNT * PAGE_BYTES + 1)[1:]], "ArgumentError", "arena"),
    ],
)
def test_memory_that_cannot_hold_pages_is_refused(memory, error, message):
    with pytest.raises(getattr(intflash, error), match=message):
        make_pages(memory())


def test_what_pages_cannot_do_is_refused():
    pages = make_pages()
    query, key, value = tokens(3, 1)
    slots = np.array([0, 1, 2])
    cache = intflash.Cache(kv_heads=KV_HEADS, head_dim=DIM, pages=1)

    def run(*arguments: object, **options: object) -> None:
        intflash.Batch(pages, *arguments, **options).run(query[:1])

    for call, error, message in (
        (lambda: pages.append(key, value, slots[:2]), "ShapeError", "slots: an array of 3"),
        (lambda: pages.append(key, value, [0, 1, 2]), "ShapeError", "slots: an array of 3"),
        (lambda: pages.append(key, value, slots.astype("i4")), "ShapeError", "in int64"),
        (lambda: pages.append(key, value, slots + COUNT * PAGE), "ArgumentError", r"slots\[0\]"),
        (lambda: pages.append(key, value, slots // 2), "ArgumentError", r"slots\[1\] = 0"),
        (lambda: pages.append(key, value[:2], slots), "ShapeError", "value is"),
        (lambda: pages.append(key[None], value, slots), "ShapeError", "key has 4 dimensions"),
        (lambda: pages.append(key * np.inf, value, slots), "NonfiniteInputError", "key"),
        (lambda: pages.append(key, value, slots, layer=2), "ArgumentError", "layer"),
        (lambda: run([[0]]), "ArgumentError", "kv_lens is None"),
        (lambda: run([[0]], kv_lens=[65]), "ShapeError", "pages in its table"),
        (lambda: run([[COUNT]], kv_lens=[3]), "ArgumentError", "page_ids"),
        (lambda: run([[1, 1]], kv_lens=[65]), "ArgumentError", "stands twice"),
        (lambda: run([[0]], kv_lens=[3, 3]), "ShapeError", "kv_lens has 2 numbers"),
        (lambda: run([[0]], kv_lens=[99], first_positions=[9]), "ShapeError", "first_key_position"),
        (
            lambda: intflash.Batch(cache, [cache.sequence()], first_positions=[0]),
            "ArgumentError",
            "first_positions: a Cache knows",
        ),
    ):
        with pytest.raises(getattr(intflash, error), match=message):
            call()
    pages.close()
    for call in (pages.info, lambda: pages.append(key, value, slots)):
        with pytest.raises(intflash.ArgumentError, match="closed"):
            call()
