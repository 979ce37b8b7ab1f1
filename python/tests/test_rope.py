# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding in caches, against rows that are turned before."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import random
from test_pages import COUNT, PAGE, PAGE_BYTES, aligned, make_pages, slots_of, tokens

import intflash

HEADS, KV_HEADS, DIM, POSITIONS = 4, 2, 32, 300


def tables(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    angle = np.arange(POSITIONS)[:, None] * 10000.0 ** (-np.arange(pairs) / pairs)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def turned(rows: np.ndarray, rope: intflash.Rope, positions: np.ndarray) -> np.ndarray:
    """(tokens, heads, dim), turned in float32."""
    cos, sin = (table[positions][:, None] for table in (rope.cos, rope.sin))
    pairs = cos.shape[-1]
    halves = rope.pairing == "halves"
    of_x = slice(0, pairs) if halves else slice(0, 2 * pairs, 2)
    of_y = slice(pairs, 2 * pairs) if halves else slice(1, 2 * pairs, 2)
    x, y = rows[..., of_x], rows[..., of_y]
    out = rows.copy()
    out[..., of_x] = x * cos - y * sin
    out[..., of_y] = x * sin + y * cos
    return out


@pytest.fixture(params=[("halves", 16), ("adjacent", 16), ("halves", 6)], ids=str)
def rope(request) -> intflash.Rope:
    pairing, pairs = request.param
    return intflash.Rope(*tables(pairs), pairing)


def test_a_cache_turns_keys_and_queries_at_their_positions(rope):
    caches = [intflash.Cache(kv_heads=KV_HEADS, head_dim=DIM, pages=20) for _ in range(2)]
    pairs = [[cache.sequence(), cache.sequence()] for cache in caches]
    lengths = [150, 40]
    key, value = (random(sum(lengths), KV_HEADS, DIM, seed=seed) for seed in (1, 2))
    query = random(3, HEADS, DIM, seed=3)
    positions = np.concatenate([np.arange(n) for n in lengths])
    turned_key = turned(key, rope, positions)
    first = [0, 70, 150, 175, 190]  # of two calls: 70 and 25 tokens, then the rest
    for parts in ((0, 2), (1, 3)):
        rows = np.concatenate([np.arange(first[i], first[i + 1]) for i in parts])
        some = [first[i + 1] - first[i] for i in parts]
        caches[0].append(pairs[0], key[rows], value[rows], lengths=some, rope=rope)
        caches[1].append(pairs[1], turned_key[rows], value[rows], lengths=some)
    for a, b in zip(*pairs, strict=True):
        assert a.to_bytes() == b.to_bytes()
    options = {"query_lens": [2, 1]}
    out = caches[0].attend(pairs[0], query, rope=rope, **options)
    by_hand = turned(query, rope, np.array([148, 149, 39]))
    assert np.array_equal(out, caches[1].attend(pairs[1], by_hand, **options))
    assert not np.array_equal(out, caches[0].attend(pairs[0], query, **options))


def test_pages_are_told_the_positions(rope):
    memories = [aligned(COUNT * PAGE_BYTES) for _ in range(2)]
    memories[1][:] = memories[0]
    query, key, value = tokens(200, 1)
    slots = slots_of([5, 1, 9, 7], 0, 200)
    positions = np.arange(3, 203)
    plain, turning = (make_pages([memory]) for memory in memories)
    turning.append(key, value, slots, rope=rope, positions=positions)
    plain.append(turned(key, rope, positions), value, slots)
    assert np.array_equal(*memories)
    batch = [intflash.Batch(p, [[5, 1, 9, 7]], kv_lens=[200]) for p in (turning, plain)]
    out = batch[0].run(query[-1:], rope=rope)
    by_hand = turned(query[-1:], rope, np.array([199]))
    assert np.array_equal(out, batch[1].run(by_hand))


def test_tables_are_read_where_they_lie_unless_rows_have_gaps(rope):
    cache = intflash.Cache(kv_heads=KV_HEADS, head_dim=DIM, pages=4)
    key = random(5, KV_HEADS, DIM, seed=1)
    doubled = (np.concatenate([table, table], 1) for table in (rope.cos, rope.sin))
    views = intflash.Rope(*(table[:, : table.shape[1] // 2] for table in doubled), rope.pairing)
    sequences = [cache.sequence(), cache.sequence()]
    cache.append(sequences[:1], key, key, rope=rope)
    with pytest.warns(intflash.CopyWarning, match="rope's"):
        cache.append(sequences[1:], key, key, rope=views)
    assert sequences[0].to_bytes() == sequences[1].to_bytes()


def test_what_is_no_embedding_is_refused():
    cos, sin = tables(16)
    cache = intflash.Cache(kv_heads=KV_HEADS, head_dim=DIM, pages=8)
    key = random(5, KV_HEADS, DIM, seed=1)
    for given, error, message in (
        ((cos, sin[:, :8].copy()), "ShapeError", "rope's cos has shape .*they are one for another"),
        ((cos, sin, "both"), "ArgumentError", "rope's pairing is 'both': one of adjacent, halves"),
        ((cos, None), "ArgumentError", "rope's sin is a NoneType"),
        ((cos[0], sin[0]), "ShapeError", "rope's cos has 1 dimensions"),
        ((cos.astype("f8"), sin), "UnsupportedError", "rope's cos has dtype float64"),
        ((cos.astype("f2"), sin), "UnsupportedError", "rope's cos has dtype float16"),
        ((cos[:4], sin[:4]), "ArgumentError", "rope"),
        ((np.zeros((9, 17), "f4"), np.zeros((9, 17), "f4")), "ShapeError", "rope"),
    ):
        with pytest.raises(getattr(intflash, error), match=message):
            cache.append([cache.sequence()], key, key, rope=intflash.Rope(*given))
    with pytest.raises(intflash.ArgumentError, match="rope's pairing is None"):
        cache.append([cache.sequence()], key, key, rope=(cos, sin))
    pages = make_pages()
    _, key, value = tokens(3, 1)
    slots, rope = np.arange(3), intflash.Rope(cos, sin)
    for options, error in (
        ({"rope": rope}, "ArgumentError"),
        ({"positions": slots}, "ArgumentError"),
        ({"rope": rope, "positions": slots[:2]}, "ShapeError"),
        ({"rope": rope, "positions": slots + POSITIONS}, "ArgumentError"),
    ):
        with pytest.raises(getattr(intflash, error), match="position"):
            pages.append(key, value, slots, **options)


def test_trees_of_a_batch_are_masks_by_request():
    cache = intflash.Cache(kv_heads=KV_HEADS, head_dim=DIM, pages=20)
    sequences = [cache.sequence(), cache.sequence()]
    lengths = [150, 40]
    key, value = (random(sum(lengths), KV_HEADS, DIM, seed=seed) for seed in (1, 2))
    cache.append(sequences, key, value, lengths=lengths)
    query = random(PAGE // 16 + 3, HEADS, DIM, seed=3)
    tree = np.tril(np.random.default_rng(4).random((4, 70)) < 0.5, 66)
    keep = np.concatenate([np.ones((4, 80), bool), tree], 1)
    options = {"query_lens": [4, 3], "lse": True}
    out, lse = cache.attend(sequences, query, trees=[tree, None], **options)
    wanted, wanted_lse = cache.attend(sequences, query, masks=[keep, None], **options)
    assert np.array_equal(out, wanted)
    assert np.array_equal(lse, wanted_lse)
    for trees in ([tree], [tree, None, None], []):
        with pytest.raises(intflash.ShapeError, match="trees has"):
            cache.attend(sequences, query, trees=trees, **options)
    with pytest.raises(intflash.ShapeError, match="each of 3 queries"):
        cache.attend(sequences, query, trees=[None, tree], **options)
