# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The model against the command that INTFLASH_COMMAND names, over inputs of many kinds."""

import os
import pathlib
import subprocess
import tempfile
import unittest

import numpy as np

from attention import F32, attend, computed_center

ALL = 10**9  # keys before or after the query, of a window that has no such end


def draw(random, *shape):
    return random.standard_normal(shape).astype(F32)


def window(query_len, kv_len, before, after, prefix=0):
    distance = np.arange(kv_len) - (kv_len - query_len + np.arange(query_len)[:, None])
    return (distance >= -before) & (distance <= after) | (np.arange(kv_len) < prefix)


def run_command(arrays, options):
    """out and log-sum-exp of a call whose arrays are named as the options that take files."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        command = [os.environ["INTFLASH_COMMAND"], "attend", *options]
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
            command += [f"--{name}", folder / f"{name}.npy"]
        results = [folder / "out.npy", folder / "lse.npy"]
        command += ["--out", results[0], "--lse", results[1]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return [np.load(path) for path in results]


class Command(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(list(self.id().encode()))

    def inputs(self, heads, kv_heads, query_len, kv_len, dim, dim_v=None):
        shapes = (heads, query_len, dim), (kv_heads, kv_len, dim), (kv_heads, kv_len, dim_v or dim)
        return [draw(self.random, *shape) for shape in shapes]

    def check(self, inputs, *options, sees=True, mask=None, sinks=None, slopes=None, centers="",
              **settings):
        """Both give the same bits. sees: what a rule leaves; mask: an additive one."""
        names = "query", "key", "value", "additive-mask", "sinks", "alibi-slopes"
        arrays = dict(zip(names, [*inputs, mask, sinks, slopes]))
        arrays = {name: array for name, array in arrays.items() if array is not None}
        if centers:
            options += ("--center", centers)
        out, lse = run_command(arrays, options)

        query, key, value = (x.astype(F32) for x in inputs)
        heads, query_len, kv_len = len(query), query.shape[1], key.shape[1]
        group = heads // len(key)
        shape = heads, query_len, kv_len
        sees = np.broadcast_to(sees, shape)
        if mask is not None:
            mask = np.broadcast_to(mask, shape)
            sees = sees & (mask > np.finfo(mask.dtype).min)
        seen = sees.reshape(len(key), -1, kv_len).any(axis=1)
        for h in range(heads):
            kv = h // group
            of_head = dict(settings)
            if "k" in centers:
                of_head["key_center"] = computed_center(key[kv], seen[kv], True)
            if "v" in centers:
                of_head["value_center"] = computed_center(value[kv], seen[kv], True)
            if mask is not None:
                of_head["elements"] = mask[h].astype(F32)
            if slopes is not None:
                of_head["slope"] = slopes[h]
            if sinks is not None:
                of_head["sink"] = sinks[h]
            model_out, model_lse = attend(query[h], key[kv], value[kv], sees[h], **of_head)
            np.testing.assert_array_equal(out[h], model_out)
            np.testing.assert_array_equal(lse[h], model_lse)

    def test_rows_of_several_spans_are_merged_by_the_tree(self):
        inputs = self.inputs(4, 2, 5, 5300, 80)
        self.check(inputs, "--causal", sees=window(5, 5300, ALL, 0))
        self.check(inputs, "--window", "2500", sees=window(5, 5300, 2500, 0))

    def test_dimensions_have_rotations_of_their_own(self):
        for dim, dim_v in ((8, 16), (40, 88), (96, 576), (1024, 24)):
            with self.subTest(dim=dim, dim_v=dim_v):
                self.check(self.inputs(1, 1, 3, 140, dim, dim_v))
        self.check(self.inputs(2, 1, 20, 300, 64), "--rotate", "off", rotate=False)

    def test_halves_and_a_softmax_scale_are_taken_as_they_are(self):
        inputs = [x.astype(np.float16) for x in self.inputs(2, 1, 9, 200, 64)]
        self.check(inputs, "--softmax-scale", "0.3", softmax_scale=0.3)

    def test_masks_leave_what_each_row_sees(self):
        inputs = self.inputs(2, 2, 40, 300, 64)
        self.check(inputs, "--prefix-len", "170", sees=window(40, 300, ALL, 0, prefix=170))
        top_left = np.tril(np.ones((40, 300), bool))
        self.check(inputs, "--mask", "causal-top-left", sees=top_left)
        sinks = draw(self.random, 2)
        more_queries = self.inputs(2, 1, 30, 10, 64)
        self.check(more_queries, "--causal", sees=window(30, 10, ALL, 0), sinks=sinks)

    def test_scores_of_any_size_take_the_general_form(self):
        query, key, value = self.inputs(2, 1, 25, 400, 64)
        causal = window(25, 400, ALL, 0)
        for factor in (4, 8, 16, 1e12):
            with self.subTest(factor=factor):
                self.check([query * F32(factor), key, value], "--causal", sees=causal)

    def test_scores_have_as_many_digits_as_they_are_asked_for(self):
        query, key, value = self.inputs(2, 1, 20, 300, 64)
        key[0, 170:] *= F32(8)
        causal = window(20, 300, ALL, 0)
        for digits in (1, 2):
            for factor in (1e-9, 1, 6, 1e9):
                with self.subTest(digits=digits, factor=factor):
                    self.check([query * F32(factor), key, value], "--causal", "--score-digits",
                               str(digits), sees=causal, score_digits=digits)
        self.check(self.inputs(1, 1, 3, 140, 640), "--score-digits", "2", score_digits=2)
        ones = np.where(self.inputs(1, 1, 9, 150, 1024, 8)[0] > 0, F32(1), F32(-0.9))
        _, key, value = self.inputs(1, 1, 9, 150, 1024, 8)
        self.check([ones, key, value], "--score-digits", "2", "--rotate", "off", score_digits=2,
                   rotate=False)

    def test_values_may_be_light_or_faint_or_zero(self):
        query, key, value = self.inputs(1, 1, 25, 700, 64)
        powers = self.random.choice([1, 1, 1, 1e-2, 1e-5, 0], 700).astype(F32)
        powers[400:] *= self.random.choice([1, 1, 1e-9, 1e-20], 300).astype(F32)
        powers[600:] = 0
        self.check([query, key, value * powers[:, None]], "--causal", sees=window(25, 700, ALL, 0))

    def test_mantissas_and_steps_may_lie_on_their_bounds(self):
        query, key, value = (127 * x / np.abs(x).max(axis=2, keepdims=True)
                             for x in self.inputs(1, 1, 25, 384, 64))
        key *= F32(0.99999 * 2**-11)
        steps = np.repeat([2.0**-4, 2.0**-24, 2.0**-25], 128)
        steps[self.random.random(384) < 0.7] = 1
        value *= F32(0.99999) * steps.astype(F32)[:, None]
        scale = 0.6931468
        self.check([query, key, value], "--rotate", "off", "--softmax-scale", str(scale),
                   rotate=False, softmax_scale=scale)

    def test_values_in_f16_have_sums_in_f32(self):
        query, key, value = self.inputs(2, 1, 15, 1300, 64, 40)
        value *= self.random.choice([1, 1, 1, 1e-5, 1e-20, 1e18, 0], (1300, 1)).astype(F32)
        value[:, :, 3] *= F32(1e-8)
        key[:, 900:] *= F32(9)
        inputs, settings = (query, key, value), {"f16_values": True}
        causal = window(15, 1300, ALL, 0)
        mode = "--mode", "int8_qk"
        self.check(inputs, "--causal", *mode, sees=causal, **settings)
        self.check(inputs, *mode, "--rotate", "off", rotate=False, **settings)
        self.check(inputs, "--score-cap", "5", *mode, centers="kv", cap=5, **settings)
        mask = draw(self.random, 15, 1300) * F32(4)
        self.check(inputs, *mode, mask=mask, sinks=draw(self.random, 2), **settings)

    def test_zero_and_tiny_rows_have_no_scale(self):
        query, key, value = self.inputs(1, 1, 9, 300, 64)
        query[:, ::3], query[:, 1] = 0, query[:, 1] * F32(1e-33)
        key[:, ::5], key[:, 130:] = key[:, ::5] * F32(1e-33), 0
        self.check([query, key, value])

    def test_caps_act_on_scores_near_and_far(self):
        inputs = self.inputs(2, 1, 15, 200, 64)
        for cap in (1e-25, 0.03, 1, 50):
            with self.subTest(cap=cap):
                self.check(inputs, "--score-cap", str(cap), cap=cap)

    def test_biases_are_added_where_there_are_any(self):
        inputs = self.inputs(3, 1, 20, 300, 64)
        causal = window(20, 300, ALL, 0)
        slopes = np.array([0.5, 0, 1e-3], F32)
        mask = draw(self.random, 3, 20, 300) * F32(4)
        mask[:, :, 100:220] = 0
        mask[self.random.random(mask.shape) < 0.2] = -np.inf
        self.check(inputs, "--causal", sees=causal, slopes=slopes)
        self.check(inputs, mask=mask)
        self.check(inputs, "--score-cap", "5", mask=mask.astype(np.float16), slopes=slopes, cap=5)

    def test_largest_biases_and_sinks_are_held(self):
        inputs = self.inputs(2, 1, 12, 200, 64)
        mask = self.random.uniform(-3.4e38, 3.4e38, (12, 200)).astype(F32)
        sinks = np.array([3e38, -3e38], F32)
        self.check(inputs, mask=mask)
        self.check(inputs, sinks=sinks)
        self.check(inputs, mask=mask, sinks=sinks)

    def test_centres_come_back(self):
        query, key, value = self.inputs(4, 2, 10, 1500, 64)
        key[:, :, ::7] += F32(9)
        value[1] += F32(3)
        seen = window(10, 1500, 700, 0)
        sinks = draw(self.random, 4) * F32(9)
        inputs = query, key, value
        self.check(inputs, "--window", "700", sees=seen, centers="k")
        self.check(inputs, "--window", "700", sees=seen, centers="kv", sinks=sinks)
        self.check(inputs, "--score-cap", "9", centers="kv", sinks=sinks, cap=9)


if __name__ == "__main__":
    unittest.main()
