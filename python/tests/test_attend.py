# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""attend against float64, within the limits that the C++ tests have."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from oracle import attend, random, relative_l1, visible

import intflash

LIMIT = 0.025  # relative L1, of normal numbers and a few hundred keys
LSE_LIMIT = 0.03


def expect_near(inputs: tuple, options: dict, limit: float = LIMIT, **oracle: object) -> None:
    out, lse = intflash.attend(*inputs, lse=True, **options)
    wanted, wanted_lse = attend(*inputs, **oracle)
    assert relative_l1(out, wanted) <= limit
    seen = np.isfinite(wanted_lse)
    assert np.array_equal(np.isfinite(lse), seen)
    assert np.abs(lse[seen] - wanted_lse[seen]).max() <= LSE_LIMIT
    exact = intflash.attend(*inputs, mode="exact", **options)
    assert relative_l1(exact, wanted) <= 1e-6


def test_plain_attention_of_grouped_heads_is_near_the_definition(inputs):
    expect_near(inputs, {})


@pytest.mark.parametrize(
    "options",
    [
        {"causal": True},
        {"causal": "bottom_right"},
        {"causal": "top_left"},
        {"window": (20, 5)},
        {"window": (-1, 3)},
        {"window": (20, -1)},
        {"causal": True, "window": (20, 0)},
        {"causal": True, "prefix": 150},
    ],
)
def test_masks_that_are_rules_hide_what_they_say(inputs, options):
    expect_near(inputs, options, seen=visible(70, 200, **options))


def test_a_causal_window_has_no_right_side(inputs):
    expect_near(
        inputs, {"causal": True, "window": (9, 4)}, seen=visible(70, 200, True, window=(9, 0))
    )
    expect_near(
        inputs, {"causal": True, "window": (9, None)}, seen=visible(70, 200, True, window=(9, 0))
    )


@pytest.mark.parametrize(
    "shape",
    [(200,), (70, 200), (1, 200), (4, 70, 200), (1, 70, 200), (2, 4, 70, 200), (2, 1, 1, 200)],
)
def test_masks_of_booleans_and_numbers_broadcast(inputs, shape):
    keep = np.random.default_rng(4).random(shape) < 0.7
    expect_near(inputs, {"mask": keep}, seen=keep)
    bias = random(*shape, seed=5)
    expect_near(inputs, {"mask": bias}, bias=bias.astype(np.float64))
    hidden = np.where(keep, np.float16(0), np.float16(-np.inf))
    assert np.array_equal(
        intflash.attend(*inputs, mask=hidden), intflash.attend(*inputs, mask=keep)
    )


def test_a_boolean_mask_goes_with_causality(inputs):
    keep = np.random.default_rng(6).random((70, 200)) < 0.5
    expect_near(inputs, {"mask": keep, "causal": True}, seen=keep & visible(70, 200, True))


def test_rows_that_see_no_key_are_zero(inputs):
    keep = np.ones((70, 200), bool)
    keep[3] = False
    out, lse = intflash.attend(*inputs, mask=keep, lse=True)
    assert not out[:, :, 3].any()
    assert np.all(np.isneginf(lse[:, :, 3]))
    expect_near(inputs, {"mask": keep}, seen=keep)


def test_scale_cap_sinks_and_alibi_act_on_scores(inputs):
    expect_near(inputs, {"scale": 0.05}, scale=0.05)
    expect_near(inputs, {"cap": 2.0}, cap=2.0)
    expect_near(inputs, {"cap": 0}, cap=None)
    sinks = np.array([0.5, -np.inf, 3.0, 6.0])
    expect_near(inputs, {"sinks": sinks}, sinks=sinks)
    slopes = [0.5, 0.25, 0.0625, 0.01]
    expect_near(
        inputs, {"alibi": slopes, "causal": True}, alibi=slopes, seen=visible(70, 200, True)
    )


def test_centres_help_where_channels_have_a_bias(inputs):
    query, key, value = inputs
    for center, bias in (("key", (20, 0)), ("key_value", (0, 20))):
        biased = query, key + np.float32(bias[0]), value + np.float32(bias[1])
        wanted, _ = attend(*biased)
        plain = {"rotate": False, "score_digits": 1}
        without = relative_l1(intflash.attend(*biased, **plain), wanted)
        assert relative_l1(intflash.attend(*biased, center=center, **plain), wanted) < without / 2


def test_rotation_and_digits_change_bits_and_keep_limits(inputs):
    expect_near(inputs, {"rotate": False})
    expect_near(inputs, {"score_digits": 2})
    plain = intflash.attend(*inputs, score_digits=1)
    assert not np.array_equal(plain, intflash.attend(*inputs, rotate=False))
    assert not np.array_equal(plain, intflash.attend(*inputs, score_digits=2))


@pytest.mark.parametrize(("dtype", "limit"), [(np.float16, 0.026), (ml_dtypes.bfloat16, 0.03)])
def test_sixteen_bit_inputs_give_sixteen_bit_outputs(inputs, dtype, limit):
    narrow = [array.astype(dtype) for array in inputs]
    out, lse = intflash.attend(*narrow, lse=True)
    assert out.dtype == dtype
    assert lse.dtype == np.float32
    wanted, _ = attend(*narrow)
    assert relative_l1(out, wanted) <= limit


def test_three_dimensions_are_one_batch(inputs):
    whole, lse = intflash.attend(*inputs, causal=True, lse=True)
    for b in range(2):
        out, sums = intflash.attend(*(array[b] for array in inputs), causal=True, lse=True)
        assert np.array_equal(out, whole[b])
        assert np.array_equal(sums, lse[b])


def test_any_number_of_threads_gives_the_same_bits(inputs):
    assert np.array_equal(intflash.attend(*inputs, threads=1), intflash.attend(*inputs, threads=5))


@pytest.mark.parametrize("empty", [(0, 4, 3, 64), (2, 4, 0, 64)])
def test_nothing_to_attend_is_no_error(empty):
    query = np.zeros(empty, np.float32)
    key = random(empty[0], 2, 5, 64, seed=1)
    out, lse = intflash.attend(query, key, key, lse=True)
    assert out.shape == empty
    assert lse.shape == empty[:3]


def test_without_keys_rows_are_zero():
    none = np.zeros((1, 2, 0, 64), np.float32)
    out, lse = intflash.attend(random(1, 2, 3, 64, seed=1), none, none, lse=True)
    assert not out.any()
    assert np.all(np.isneginf(lse))


def test_merged_states_are_attention_over_all_keys(inputs):
    query, key, value = inputs
    parts = [
        intflash.attend(query, key[:, :, part], value[:, :, part], lse=True)
        for part in (slice(0, 50), slice(50, 130), slice(130, 200))
    ]
    wanted, wanted_lse = attend(query, key, value)
    for rows in (slice(None), slice(0, 1)):
        out, lse = intflash.merge_states([o[rows] for o, _ in parts], [s[rows] for _, s in parts])
        assert relative_l1(out, wanted[rows]) <= LIMIT
        assert np.abs(lse - wanted_lse[rows]).max() <= LSE_LIMIT
    out, _ = intflash.merge_states([o[0] for o, _ in parts], [s[0] for _, s in parts])
    assert relative_l1(out, wanted[0]) <= LIMIT


def test_info_says_what_computes(monkeypatch):
    info = intflash.info(threads=3)
    assert info.version == intflash.__version__
    assert (info.threads, info.device) == (3, "cpu")
    assert info.port in [port.name for port in info.ports if port.supported]
    assert [port.name for port in info.ports][-1] == "scalar"
