# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The model against the hashes of tests/golden_test.cpp, over the same inputs.

Inputs are drawn as tests/random.h and tests/attention_case.cpp draw them, from seed 0.
"""

import functools
import pathlib
import re
import unittest
from dataclasses import dataclass

import numpy as np

from attention import F32, Codes, attend, computed_center

TESTS = pathlib.Path(__file__).resolve().parents[1]
REAL_QUERIES, MASK_PADDING, TREE_KEYS = 60, 3, 100
SINK_VALUES = np.array([1, 0, 1, 1e-4, 1, 1e-30], F32)


@dataclass(frozen=True)
class Golden:
    files: str = ""
    query_heads: int = 1  # of all batches
    kv_heads: int = 1
    query_len: int = 0
    kv_len: int = 0
    head_dim: int = 64
    head_dim_v: int = 64
    types: tuple = ("f32", "f32", "f32")  # of query, key and value
    out: str = "f32"
    magnitudes: tuple = (1, 1, 1)
    data: str = "normal"
    window: tuple = (-1, -1)  # keys before and after the query that it sees; -1: all
    cap: float = 0
    rotate: bool = False
    computed_centers: bool = False
    given_centers: bool = False
    one_value_scale: bool = False
    biases_and_sinks: bool = False
    score_digits: int = 0
    f16_values: bool = False


CAUSAL = (-1, 0)
GOLDENS = {
    "RealCausalGroups": Golden(files="tinyllama_l5", window=CAUSAL),
    "RealRotatedAndCentred": Golden(
        files="tinyllama_l5", window=CAUSAL, rotate=True, computed_centers=True, out="f16"
    ),
    "RealCappedWindow": Golden(files="tinyllama_l5", window=(300, 0), cap=20, out="bf16"),
    "RealSink": Golden(files="minilm_l5"),
    "RealSinkUncentred": Golden(files="minilm_l5"),
    "Codes": Golden(
        query_heads=2, kv_heads=2, query_len=130, kv_len=130, head_dim=40, types=("int8",) * 3
    ),
    "CodesOfOneScale": Golden(
        query_heads=2, kv_heads=2, query_len=33, kv_len=200, head_dim=576, head_dim_v=512,
        types=("f32", "f32", "int8"), one_value_scale=True,
    ),
    "TwoSpansOfBf16": Golden(
        query_heads=4, query_len=31, kv_len=1200, head_dim=128, head_dim_v=128, window=CAUSAL,
        types=("bf16",) * 3,
    ),
    "SinksUnderACap": Golden(query_len=40, kv_len=300, cap=20, data="sinks"),
    "OutliersRotated": Golden(
        query_len=60, kv_len=190, head_dim=72, head_dim_v=136, rotate=True, given_centers=True,
        data="outliers",
    ),
    "OneHot": Golden(query_len=150, kv_len=150, window=(-1, 5), data="one hot"),
    "ZeroRowsOfManyMagnitudes": Golden(
        query_len=50, kv_len=140, magnitudes=(30, 30, 1e4), data="zero rows"
    ),
    "BiasesAndSinks": Golden(
        query_heads=3, query_len=21, kv_len=280, window=CAUSAL, rotate=True, biases_and_sinks=True
    ),
    "TwoDigits": Golden(query_len=40, kv_len=300, window=CAUSAL, rotate=True, score_digits=2),
    "DigitsAsNeeded": Golden(query_len=40, kv_len=300, magnitudes=(1, 6, 1)),
    "RealF16Values": Golden(
        files="tinyllama_l5", window=CAUSAL, rotate=True, computed_centers=True, f16_values=True
    ),
    "CodesInF16": Golden(
        query_heads=2, kv_heads=2, query_len=33, kv_len=200, head_dim=40, head_dim_v=24,
        types=("f32", "f32", "int8"), f16_values=True,
    ),
}


class Random:
    """splitmix64: more of it than any golden draws."""

    def __init__(self, seed):
        z = np.uint64(seed) + np.arange(1, 2**19, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        self.numbers = z ^ (z >> np.uint64(31))

    def next(self, count):
        drawn, self.numbers = self.numbers[:count], self.numbers[count:]
        return drawn

    def uniform(self, count):
        return (self.next(count) >> np.uint64(11)).astype(float) * 2.0**-53

    def below(self, count):
        return int(self.next(1)[0]) % count

    def normal(self, count):
        bits = self.next(count)
        halves = [(bits >> np.uint64(i) & np.uint64(0xFFFF)).astype(int) for i in (0, 16, 32, 48)]
        return (sum(halves) - 2 * 65536).astype(F32) * F32(F32(1.7320508) / 65536)


def as_bf16(x):
    """To the nearest, ties to even; as f32."""
    bits = x.astype(F32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(F32)


def draw_row(random, dim, data):
    if data != "outliers":
        return random.normal(dim)
    row = np.zeros(dim, F32)
    for c in range(dim):
        row[c] = random.normal(1)[0]
        if random.below(100) == 0:
            row[c] *= F32(100) * random.normal(1)[0]
    return row


def draw_rows(random, shape, data, factors):
    heads, tokens, dim = shape
    rows = np.zeros(shape, F32)
    for head, token in np.ndindex(heads, tokens):
        if token == 0:
            random.normal(dim)  # what all keys of other cases are
        is_zero = data == "zero rows" and random.below(3) == 0
        rows[head, token] = draw_row(random, dim, data) * (F32(0) if is_zero else factors[token])
    return rows


def stored(rows, dtype, magnitude, scales):
    if dtype == "int8":
        codes = np.clip(np.rint(rows * F32(36)), -127, 127).astype(int)
        return [Codes(*head) for head in zip(codes, scales)]
    rows = rows * F32(magnitude)
    return as_bf16(rows) if dtype == "bf16" else rows


def draw_scales(random, heads, tokens, is_one):
    count = 1 if is_one else heads * tokens
    drawn = F32(1) / F32(36) * (0.5 + random.uniform(count)).astype(F32)
    return np.broadcast_to(drawn if is_one else drawn.reshape(heads, tokens), (heads, tokens))


def draw_inputs(golden, random):
    shapes = [
        (golden.query_heads, golden.query_len, golden.head_dim),
        (golden.kv_heads, golden.kv_len, golden.head_dim),
        (golden.kv_heads, golden.kv_len, golden.head_dim_v),
    ]
    scales = [
        draw_scales(random, *shape[:2], golden.one_value_scale) if dtype == "int8" else None
        for shape, dtype in zip(shapes, golden.types)
    ]
    spread = F32(np.sqrt(1e5 / np.sqrt(golden.head_dim))) if golden.data == "one hot" else F32(1)
    value_factor = np.resize(SINK_VALUES, max(golden.kv_len, golden.query_len))
    if golden.data != "sinks":
        value_factor = np.ones_like(value_factor)
    key_factor = np.where(value_factor != 1, F32(3), spread)
    factors = np.full_like(value_factor, spread), key_factor, value_factor
    rows = [draw_rows(random, shape, golden.data, by) for shape, by in zip(shapes, factors)]
    return [stored(*x) for x in zip(rows, golden.types, golden.magnitudes, scales)]


def draw_mask(random, heads, query_len, kv_len):
    """Elements in f16, with runs of zeros, and which keys they leave."""
    elements, left = [], []
    zeros = True
    for _ in range(heads * query_len * (kv_len + MASK_PADDING)):
        zeros ^= random.below(150) == 0
        elements.append(F32(0) if zeros else F32(3) * random.normal(1)[0])
        left.append(random.below(5) != 0)
        if not left[-1]:
            random.below(2)  # -infinity, or the lowest finite value
    shape = heads, query_len, -1
    elements = np.array(elements).astype(np.float16).astype(F32)
    return elements.reshape(shape)[..., :kv_len], np.array(left).reshape(shape)[..., :kv_len]


def draw_tree(random, query_len, kv_len):
    """A bit for each of the last keys."""
    bits = [random.below(2) for _ in range(query_len * -(-TREE_KEYS // 64) * 64)]
    left = np.ones((query_len, kv_len), bool)
    left[:, -TREE_KEYS:] = np.array(bits, bool).reshape(query_len, -1)[:, :TREE_KEYS]
    return left


def real_inputs(golden):
    names = (TESTS.parent / "data" / f"{golden.files}_{x}.npy" for x in "qkv")
    query, key, value = (np.load(name).astype(F32) for name in names)
    return query[:, :REAL_QUERIES], key, value


def ruled(golden, query_len, kv_len):
    position = kv_len - query_len + np.arange(query_len)[:, None]
    before, after = (np.inf if x < 0 else x for x in golden.window)
    return (np.arange(kv_len) >= position - before) & (np.arange(kv_len) <= position + after)


def narrowed(out, dtype):
    if dtype == "f16":
        return np.clip(out, F32(-65504), F32(65504)).astype(np.float16).tobytes()
    if dtype == "bf16":
        return (as_bf16(out).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return out.tobytes()


def hash_of(data):
    """FNV-1a."""
    result = 0xCBF29CE484222325
    for byte in data:
        result = (result ^ byte) * 0x100000001B3 % 2**64
    return result


@functools.cache
def attend_golden(golden):
    random = Random(1)
    query, key, value = real_inputs(golden) if golden.files else draw_inputs(golden, random)
    heads, kv_heads = len(query), len(key)
    query_len, kv_len = (len(x[0].scale if isinstance(x[0], Codes) else x[0]) for x in (query, key))
    sees = np.broadcast_to(ruled(golden, query_len, kv_len), (heads, query_len, kv_len))
    centers = [[None] * kv_heads] * 2
    if golden.given_centers:
        centers = [F32(m) * random.normal(kv_heads * len(x[0][0])).reshape(kv_heads, -1)
                   for x, m in zip((key, value), golden.magnitudes[1:])]
    elements, slopes, sinks = [None] * heads, [0] * heads, [-np.inf] * heads
    if golden.biases_and_sinks:
        elements, left = draw_mask(random, heads, query_len, kv_len)
        sees = sees & left & draw_tree(random, query_len, kv_len)
        slopes = [0 if h == 1 else 2 ** (-(h % 8) / 2) for h in range(heads)]
        drawn = F32(5) + F32(3) * random.normal(heads - heads // 3)
        sinks = np.insert(drawn, [1], -np.inf)
    group = heads // kv_heads
    if golden.computed_centers:
        seen = sees.reshape(kv_heads, -1, kv_len).any(axis=1)
        centers = [[computed_center(*of_head, golden.rotate) for of_head in zip(x, seen)]
                   for x in (key, value)]
    results = [
        attend(query[h], key[h // group], value[h // group], sees[h], cap=golden.cap,
               elements=elements[h], slope=slopes[h], sink=sinks[h], rotate=golden.rotate,
               key_center=centers[0][h // group], value_center=centers[1][h // group],
               score_digits=golden.score_digits, f16_values=golden.f16_values)
        for h in range(heads)
    ]
    out, lse = (np.array(x) for x in zip(*results))
    return hash_of(narrowed(out, golden.out)), hash_of(lse.tobytes())


def expected_hashes():
    entry = re.compile(r'\{"(\w+)",\s*\{0x([0-9a-f]+), 0x([0-9a-f]+)\}')
    found = entry.findall((TESTS / "golden_test.cpp").read_text())
    return {name: tuple(int(x, 16) for x in hashes) for name, *hashes in found}


class Goldens(unittest.TestCase):
    def test_model_gives_the_hashes_of_all_goldens(self):
        expected = expected_hashes()
        self.assertEqual(expected.keys(), GOLDENS.keys())
        for name, golden in GOLDENS.items():
            with self.subTest(name):
                self.assertEqual(attend_golden(golden), expected[name])


if __name__ == "__main__":
    unittest.main()
