# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""attend of codes in int8, with centres that are given, and with trees of keys."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from oracle import attend, random, relative_l1, visible

import intflash

LIMIT = 0.025  # relative L1, of normal numbers and a few hundred keys
PLAIN = {"rotate": False, "score_digits": 1}


def codes_of(array: np.ndarray, block: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Codes, and a scale for every block of tokens: powers of two, so that products are exact."""
    tokens = array.shape[2]
    edges = range(0, tokens, block)
    largest = np.stack([np.abs(array[:, :, i : i + block]).max((2, 3)) for i in edges], 2)
    scale = np.exp2(np.ceil(np.log2(largest / 127))).astype(np.float32)
    codes = np.rint(array / np.repeat(scale, block, 2)[:, :, :tokens, None]).astype(np.int8)
    return codes, scale


@pytest.fixture
def coded(inputs) -> tuple[list, dict, list]:
    """Codes, their scales by argument, and the numbers that they stand for."""
    pairs = [codes_of(array) for array in inputs]
    names = ("query_scale", "key_scale", "value_scale")
    scales = dict(zip(names, (scale for _, scale in pairs), strict=True))
    return [codes for codes, _ in pairs], scales, [c * s[..., None] for c, s in pairs]


def test_codes_stand_for_their_products_with_scales(coded):
    codes, scales, numbers = coded
    out, lse = intflash.attend(*codes, **scales, causal=True, lse=True)
    wanted, wanted_lse = attend(*numbers, seen=visible(70, 200, True))
    assert out.dtype == np.float32
    assert relative_l1(out, wanted) <= LIMIT
    assert np.abs(lse - wanted_lse).max() <= 0.03
    exact = intflash.attend(*codes, **scales, causal=True, mode="exact")
    assert relative_l1(exact, wanted) <= 1e-6


@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_input_may_be_codes_alone(coded, which):
    codes, scales, numbers = coded
    given = list(numbers)
    given[which] = codes[which]
    name = list(scales)[which]
    out = intflash.attend(*given, **{name: scales[name]}, mode="exact")
    assert np.array_equal(out, intflash.attend(*numbers, mode="exact"))


def test_codes_are_taken_as_they_are(inputs):
    """Numbers whose own quantization gives the same codes come to the same bits."""
    codes, scales = [], {}
    for array, name in zip(inputs, ("query_scale", "key_scale", "value_scale"), strict=True):
        of_array, scales[name] = codes_of(array)
        of_array[..., 0] = 127  # the largest, which sets the scale
        codes.append(of_array)
    numbers = [c * s[..., None] for c, s in zip(codes, scales.values(), strict=True)]
    out = intflash.attend(*codes, **scales, score_digits=1)
    assert np.array_equal(out, intflash.attend(*numbers, **PLAIN))


def test_scales_broadcast(coded):
    (query, key, value), _, _ = coded
    tokens = random(200, seed=5) ** 2 + np.float32(0.01)
    of_query, of_value = 0.01, np.float32(0.02)
    rest = {"query_scale": of_query, "value_scale": of_value}
    full = {
        "query_scale": np.full((2, 4, 70), of_query, np.float32),
        "value_scale": np.full((2, 2, 200), of_value, np.float32),
    }
    heads = random(2, 1, seed=6) ** 2
    for given, meant in (
        (tokens, np.broadcast_to(tokens, (2, 2, 200)).copy()),
        (tokens[None], np.broadcast_to(tokens, (2, 2, 200)).copy()),
        (heads, np.broadcast_to(heads, (2, 2, 200)).copy()),
        (heads[None, ..., None][:, :, 0], np.broadcast_to(heads, (2, 2, 200)).copy()),
        (heads[:, None], np.broadcast_to(heads[:, None], (2, 2, 200)).copy()),
        (0.25, np.full((2, 2, 200), 0.25, np.float32)),
        (np.full((1,), 0.25, np.float32), np.full((2, 2, 200), 0.25, np.float32)),
    ):
        out = intflash.attend(query, key, value, key_scale=given, **rest)
        assert np.array_equal(out, intflash.attend(query, key, value, key_scale=meant, **full))


@pytest.mark.parametrize("block", [1, 7, 64, 100, 200, 300])
def test_a_scale_may_be_of_several_tokens(inputs, block):
    query, key, value = inputs
    codes, scale = codes_of(key, block)
    by_token = np.repeat(scale, block, 2)[:, :, :200].copy()
    out = intflash.attend(query, codes, value, key_scale=(scale, block))
    assert np.array_equal(out, intflash.attend(query, codes, value, key_scale=by_token))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_codes_may_give_sixteen_bits(coded, dtype):
    codes, scales, _ = coded
    out = np.empty((2, 4, 70, 48), dtype)
    intflash.attend(*codes, **scales, out=out)
    assert np.array_equal(out, intflash.attend(*codes, **scales).astype(dtype))


def changed(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[0, 1, 5] = value
    return array


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: None, "ArgumentError", "key.scale = NULL"),
        (lambda s: s[..., :-1], "ShapeError", r"key_scale has shape .*is \(2, 2, 200\)"),
        (lambda s: s[..., None], "ShapeError", "key_scale has shape"),
        (lambda s: s[:, :, :3], "ShapeError", "key_scale has shape"),
        (lambda s: (s[:, :, :3], 64), "ShapeError", r"key_scale has shape .*is \(2, 2, 4\)"),
        (lambda s: (s, 0), "ArgumentError", "key_scale has blocks of 0 tokens"),
        (lambda s: (s, 1.5), "ArgumentError", "key_scale is 1.5"),
        (lambda s: s.astype("f8"), "UnsupportedError", "key_scale has dtype float64"),
        (lambda s: s.astype("f2"), "UnsupportedError", "key_scale has dtype float16"),
        (lambda s: "text", "ArgumentError", "key_scale is a str"),
        (lambda s: changed(s, -1), "ScaleError", "key"),
        (lambda s: changed(s, np.nan), "ScaleError", "key"),
        (lambda s: changed(s, 0), "ScaleError", "key"),
    ],
)
def test_scales_that_do_not_belong_are_refused(coded, change, error, message):
    codes, scales, _ = coded
    scales["key_scale"] = change(scales["key_scale"])
    with pytest.raises(getattr(intflash, error), match=message) as caught:
        intflash.attend(*codes, **scales)
    assert type(caught.value) is getattr(intflash, error)


def test_scales_of_numbers_and_codes_for_results_are_refused(inputs, coded):
    codes, scales, _ = coded
    with pytest.raises(intflash.ArgumentError, match="query_scale is of codes in int8"):
        intflash.attend(*inputs, query_scale=1.0)
    with pytest.raises(intflash.UnsupportedError, match="out has dtype int8"):
        intflash.attend(*codes, **scales, out=np.zeros((2, 4, 70, 48), np.int8))
    with pytest.raises(intflash.UnsupportedError, match="mask has dtype int8"):
        intflash.attend(*inputs, mask=np.ones((70, 200), np.int8))
    codes[1][0, 1, 5, 3] = -128
    with pytest.raises(intflash.ArgumentError, match="key.*-128"):
        intflash.attend(*codes, **scales)


@pytest.fixture
def biased(inputs) -> tuple[tuple, np.ndarray, np.ndarray]:
    """Inputs whose channels have a bias, and the biases, (kv_heads, dim)."""
    query, key, value = inputs
    of_key, of_value = 20 * random(2, 64, seed=7), 20 * random(2, 48, seed=8)
    return (query, key + of_key[:, None], value + of_value[:, None]), of_key, of_value


def test_given_centres_are_taken_off_and_put_back(biased):
    arrays, of_key, of_value = biased
    wanted, wanted_lse = attend(*arrays)
    without = relative_l1(intflash.attend(*arrays, **PLAIN), wanted)
    of_keys = intflash.attend(*arrays, center=of_key, **PLAIN)
    assert relative_l1(of_keys, wanted) < without
    both, lse = intflash.attend(*arrays, center=(of_key, of_value), lse=True, **PLAIN)
    assert relative_l1(both, wanted) < without / 10
    assert np.abs(lse - wanted_lse).max() <= 0.2  # beside scores of some hundreds
    zeros = np.zeros_like(of_key)
    assert np.array_equal(intflash.attend(*arrays, center=zeros), intflash.attend(*arrays))


def test_given_means_are_as_computed_ones(biased):
    arrays, _, _ = biased
    means = [array.astype(np.float64).mean(2).astype(np.float32) for array in arrays[1:]]
    for given, name in (
        (means[0], "key"),
        ((means[0], means[1]), "key_value"),
        ((None, means[1]), "key_value"),
        ((means[0], None), "key_value"),
    ):
        out, wanted = (intflash.attend(*arrays, center=center) for center in (given, name))
        assert relative_l1(out, wanted) < 2e-5  # the means of the two may differ by a rounding


def test_a_centre_may_be_for_each_of_the_batch(biased):
    arrays, of_key, _ = biased
    assert np.array_equal(
        intflash.attend(*arrays, center=np.stack([of_key, of_key])),
        intflash.attend(*arrays, center=of_key),
    )
    one = [array[1] for array in arrays]
    apart = np.stack([np.zeros_like(of_key), of_key])
    out = intflash.attend(*arrays, center=apart)
    assert np.array_equal(out[1], intflash.attend(*one, center=of_key))
    assert np.array_equal(out[0], intflash.attend(*(array[0] for array in arrays)))


@pytest.mark.parametrize(
    ("center", "error", "message"),
    [
        (np.zeros((3, 2, 64), "f4"), "ShapeError", r"center has shape .*is \(2, 2, 64\)"),
        (np.zeros((2, 48), "f4"), "ShapeError", r"\(batch, kv heads, dim\)"),
        (np.zeros(64, "f4"), "ShapeError", "center has shape"),
        (np.zeros((2, 64)), "UnsupportedError", "center has dtype float64"),
        (np.full((2, 64), np.nan, "f4"), "NonfiniteInputError", "key_center"),
        ((None, np.full((2, 48), np.inf, "f4")), "NonfiniteInputError", "value_center"),
        (3, "ArgumentError", "center is a int"),
    ],
)
def test_centres_that_do_not_belong_are_refused(inputs, center, error, message):
    with pytest.raises(getattr(intflash, error), match=message):
        intflash.attend(*inputs, center=center)


@pytest.mark.parametrize("keys", [0, 1, 63, 64, 65, 130, 200])
@pytest.mark.parametrize("causal", [False, True])
def test_a_tree_hides_those_of_the_last_keys_that_it_does_not_name(inputs, keys, causal):
    tree = np.random.default_rng(keys).random((70, keys)) < 0.6
    seen = np.concatenate([np.ones((70, 200 - keys), bool), tree], 1)
    out, lse = intflash.attend(*inputs, tree=tree, causal=causal, lse=True)
    by_mask = intflash.attend(*inputs, mask=seen, causal=causal, lse=True)
    assert np.array_equal(out, by_mask[0])
    assert np.array_equal(lse, by_mask[1])
    wanted, _ = attend(*inputs, seen & visible(70, 200, causal))
    assert relative_l1(out, wanted) <= LIMIT


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        (np.ones((69, 5), bool), "ShapeError", "tree has shape .*each of 70 queries"),
        (np.ones((70, 5), "f4"), "ShapeError", "tree has shape .*float32: booleans"),
        (np.ones(70, bool), "ShapeError", "tree has 1 dimensions"),
        (np.ones((70, 201), bool), "ShapeError", "bit_mask"),
    ],
)
def test_trees_that_do_not_belong_are_refused(inputs, tree, error, message):
    with pytest.raises(getattr(intflash, error), match=message):
        intflash.attend(*inputs, tree=tree)


def test_three_dimensions_are_one_batch(coded, biased):
    codes, scales, _ = coded
    whole = intflash.attend(*codes, **scales)
    for b in range(2):
        some = {name: scale[b] for name, scale in scales.items()}
        assert np.array_equal(intflash.attend(*(c[b] for c in codes), **some), whole[b])
    with pytest.raises(intflash.ShapeError, match="key_scale has shape"):
        intflash.attend(*(c[0] for c in codes), **{**some, "key_scale": scales["key_scale"][:1]})
    arrays, of_key, of_value = biased
    centred = intflash.attend(*arrays, center=(of_key, of_value))
    one = [array[1] for array in arrays]
    assert np.array_equal(intflash.attend(*one, center=(of_key, of_value)), centred[1])
