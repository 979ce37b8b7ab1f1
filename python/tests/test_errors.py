# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Every error: its class, and a message that names the argument."""

from __future__ import annotations

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from oracle import random
from test_arrays import DlpackOnly

import intflash

GOOD = {name: random(1, 2, 6, 16, seed=seed) for seed, name in enumerate(("query", "key", "value"))}


def with_element(value: float) -> np.ndarray:
    array = GOOD["key"].copy()
    array[0, 1, 3, 5] = value
    return array


def read_only() -> np.ndarray:
    array = np.zeros((1, 2, 6, 16), np.float32)
    array.flags.writeable = False
    return array


class OnDevice:
    device = "cuda:0"

    def __dlpack_device__(self) -> tuple:
        return (2, 0)

    def __dlpack__(self, **options: object) -> object:
        raise AssertionError("nobody asks for it")


class Unexportable(OnDevice):
    def __dlpack_device__(self) -> tuple:
        return (1, 0)

    def __dlpack__(self, **options: object) -> object:
        raise BufferError("not today")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"query": "text"}, "ArgumentError", "query is a str: an array is wanted"),
        ({"key": [[1.0]]}, "ArgumentError", "key is a list"),
        ({"value": None}, "ArgumentError", "value is a NoneType"),
        ({"query": np.zeros((6, 16), "f4")}, "ShapeError", "query has 2 dimensions"),
        ({"query": np.zeros((1, 1, 2, 6, 16), "f4")}, "ShapeError", "query has 5 dimensions"),
        ({"key": np.zeros((2, 6, 16), "f4")}, "ShapeError", "numbers of dimensions differ"),
        ({"key": np.zeros((2, 2, 6, 16), "f4")}, "ShapeError", r"\(2, 2, 6, 16\).*batches differ"),
        ({"key": np.zeros((1, 2, 6, 24), "f4")}, "ShapeError", "head dimensions differ"),
        ({"value": np.zeros((1, 1, 6, 16), "f4")}, "ShapeError", "heads differ"),
        ({"value": np.zeros((1, 2, 7, 16), "f4")}, "ShapeError", "tokens differ"),
        ({"query": np.zeros((1, 3, 6, 16), "f4")}, "ShapeError", "num_query_heads"),
        ({n: np.zeros((1, 2, 6, 12), "f4") for n in GOOD}, "ShapeError", "head_dim = 12"),
        ({"query": np.zeros((1, 2, 6, 16))}, "UnsupportedError", "query has dtype float64"),
        ({"key": np.zeros((1, 2, 6, 16), "i1")}, "ArgumentError", "key.scale = NULL"),
        ({"key": np.zeros((1, 2, 6, 16), "u1")}, "UnsupportedError", "key has dtype uint8"),
        ({"key": np.zeros((1, 2, 6, 16), "?")}, "UnsupportedError", "key has dtype bool"),
        ({"key": np.zeros((1, 2, 6, 16), ">f4")}, "UnsupportedError", "order of bytes"),
        ({"key": Unexportable()}, "UnsupportedError", "key cannot be read: not today"),
        ({"key": OnDevice()}, "UnsupportedError", "key is on device cuda:0"),
        ({"key": DlpackOnly(np.zeros(3), device=(2, 1))}, "UnsupportedError", r"\(2, 1\)"),
        ({"key": DlpackOnly(np.zeros((1, 2)))}, "UnsupportedError", "key has dtype"),
        ({"key": with_element(np.nan)}, "NonfiniteInputError", "key"),
        ({"value": with_element(np.inf)}, "NonfiniteInputError", "value"),
        ({"query": with_element(3e38), "scale": 1e30}, "ScoreOverflowError", "query"),
        ({"causal": "left"}, "ArgumentError", "causal is 'left': one of bottom_right, top_left"),
        ({"window": 3}, "ArgumentError", r"window is 3: \(left, right\)"),
        ({"window": (1, 2, 3)}, "ArgumentError", "window"),
        ({"window": (-2, 0)}, "ArgumentError", r"window\[0\] is -2"),
        ({"window": (0, "x")}, "ArgumentError", r"window\[1\] is 'x'"),
        ({"window": (1, 0), "causal": "top_left"}, "ArgumentError", "bottom right"),
        ({"prefix": 2}, "ArgumentError", "prefix is 2: it goes with causal=True"),
        ({"prefix": 2, "causal": True, "window": (1, 0)}, "ArgumentError", "prefix"),
        ({"prefix": 7, "causal": True}, "ArgumentError", "prefix_len"),
        ({"scale": 0}, "ScaleError", "scale is 0"),
        ({"scale": 1e-60}, "ScaleError", "scale is 1e-60"),
        ({"scale": -1}, "ScaleError", "softmax_scale"),
        ({"scale": "x"}, "ArgumentError", "scale is 'x': a number is wanted"),
        ({"cap": -1}, "ScaleError", "score_cap"),
        ({"cap": np.nan}, "ScaleError", "score_cap"),
        ({"mask": np.zeros((5, 6), "f4")}, "ShapeError", r"mask has shape \(5, 6\)"),
        ({"mask": np.zeros((6, 1), "f4")}, "ShapeError", "all but the last may be 1"),
        ({"mask": np.zeros((1, 1, 1, 1, 6), "f4")}, "ShapeError", "mask has 5 dimensions"),
        ({"mask": np.zeros((6, 6))}, "UnsupportedError", "mask has dtype float64"),
        ({"mask": np.full((6, 6), np.nan, "f4")}, "NonfiniteInputError", "mask"),
        ({"sinks": [1.0]}, "ShapeError", "sinks has 1 numbers: one for each of 2 query heads"),
        ({"sinks": 3}, "ArgumentError", "sinks is 3"),
        ({"sinks": ["a", "b"]}, "ArgumentError", "sinks is 'a'"),
        ({"sinks": [np.nan, 0]}, "NonfiniteInputError", "sinks"),
        ({"alibi": [0.5]}, "ShapeError", "alibi has 1 numbers"),
        ({"alibi": [0.5, np.inf]}, "NonfiniteInputError", "alibi_slopes"),
        ({"center": "k"}, "ArgumentError", "center is 'k': one of key, key_value"),
        ({"score_digits": 3}, "ArgumentError", "score_digits is 3"),
        ({"mode": "float"}, "ArgumentError", "mode is 'float': one of int8, exact, intfa, int8_qk"),
        ({"mode": "intfa", "alibi": [1, 1]}, "UnsupportedError", "INTFA"),
        ({"out": np.zeros((1, 2, 6, 8), "f4")}, "ShapeError", r"out has shape \(1, 2, 6, 8\)"),
        ({"out": np.zeros((2, 6, 16), "f4")}, "ShapeError", "out has shape"),
        ({"out": np.zeros((1, 2, 6, 16))}, "UnsupportedError", "out has dtype float64"),
        ({"out": read_only()}, "ArgumentError", "out is read-only"),
        ({"out": np.zeros((1, 2, 6, 32), "f4")[..., ::2]}, "StrideError", "out cannot be written"),
        ({"out": np.broadcast_to(np.zeros(16, "f4"), (1, 2, 6, 16))}, "ArgumentError", "read-only"),
        ({"threads": 0}, "ArgumentError", "threads is 0"),
        ({"threads": 2**40}, "ArgumentError", "threads"),
        ({"threads": 1.5}, "ArgumentError", "threads is 1.5"),
    ],
)
def test_what_is_wrong_is_named(changed, error, message):
    inputs = {**GOOD, **changed}
    with pytest.raises(getattr(intflash, error), match=message) as caught:
        intflash.attend(**inputs)
    assert type(caught.value) is getattr(intflash, error)


def test_rows_of_out_that_overlap_are_refused():
    out = np.lib.stride_tricks.as_strided(np.zeros(400, "f4"), (1, 2, 6, 16), (0, 400, 4, 4))
    with pytest.raises(intflash.StrideError, match="out"):
        intflash.attend(**GOOD, out=out)


def test_a_call_that_fails_leaves_out_as_it_was():
    out = np.full((1, 2, 6, 16), 5, np.float32)
    with pytest.raises(intflash.NonfiniteInputError):
        intflash.attend(**{**GOOD, "key": with_element(np.nan)}, out=out)
    assert (out == 5).all()


def test_errors_have_a_class_for_each_status():
    from intflash import _errors

    assert sorted(_errors.BY_STATUS) == list(range(1, 19))
    assert len(set(_errors.BY_STATUS.values())) == 18
    for error in _errors.BY_STATUS.values():
        assert issubclass(error, intflash.Error)
        assert getattr(intflash, error.__name__) is error
        assert error.__module__ == "intflash"
    assert issubclass(intflash.ArgumentError, ValueError)
    assert issubclass(intflash.UnsupportedError, NotImplementedError)
    assert issubclass(intflash.OutOfMemoryError, MemoryError)


UNAVAILABLE = [port.name for port in intflash.info().ports if not port.supported]


@pytest.mark.parametrize(
    ("isa", "error"),
    [("sse9", "UnknownIsaError"), *((isa, "IsaUnavailableError") for isa in UNAVAILABLE)],
)
def test_a_port_that_is_not_there_is_an_error(isa, error):
    code = f"""
import intflash
try:
    intflash.info()
except intflash.{error} as error:
    print(error)
"""
    environment = {**os.environ, "INTFLASH_ISA": isa}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert isa in shown.stdout


def test_states_that_do_not_belong_together_are_refused():
    out, lse = np.zeros((2, 3, 8), np.float32), np.zeros((2, 3), np.float32)
    for outs, lses, error in (
        ([], [], "ShapeError"),
        ([out], [lse, lse], "ShapeError"),
        ([out, out[:1]], [lse, lse], "ShapeError"),
        ([out, out], [lse, lse[:1]], "ShapeError"),
        ([out.astype(np.float16)], [lse], "UnsupportedError"),
        ([out], [lse * np.nan], "NonfiniteInputError"),
    ):
        with pytest.raises(getattr(intflash, error)):
            intflash.merge_states(outs, lses)


@pytest.mark.parametrize("name", ["mode", "causal", "center"])
def test_text_that_is_no_utf_8_is_named_in_the_message(name):
    with pytest.raises(intflash.ArgumentError, match=name):
        intflash.attend(**GOOD, **{name: "\ud800"})


def test_what_an_exporter_says_may_be_no_utf_8():
    class Broken:
        def __dlpack__(self, **options: object) -> object:
            raise OSError("\ud800")

        def __dlpack_device__(self) -> tuple:
            return (1, 0)

    with pytest.raises(intflash.UnsupportedError, match="query cannot be read"):
        intflash.attend(Broken(), GOOD["key"], GOOD["value"])


class Malformed:
    """What says that it has DLPack."""

    def __init__(self, capsule: object, device: object = (1, 0)):
        self.capsule, self.device_pair = capsule, device

    def __dlpack__(self, **options: object) -> object:
        return self.capsule

    def __dlpack_device__(self) -> object:
        return self.device_pair


def consumed() -> object:
    capsule = random(1, 2, 6, 16, seed=1).__dlpack__()
    np.from_dlpack(Malformed(capsule))
    return capsule


@pytest.mark.parametrize(
    "given",
    [
        Malformed(None),
        Malformed("text"),
        Malformed(consumed()),
        Malformed(np.zeros(3).__array_struct__),
        Malformed(None, None),
        Malformed(None, ()),
        Malformed(None, ("cpu", 0)),
        Malformed(None, 1),
    ],
)
def test_what_is_no_capsule_is_refused(given):
    with pytest.raises(intflash.UnsupportedError, match="key cannot be read"):
        intflash.attend(**{**GOOD, "key": given})


def test_a_signal_during_an_export_is_raised_as_it_is():
    class Interrupted:
        def __dlpack__(self, **options: object) -> object:
            raise KeyboardInterrupt

        def __dlpack_device__(self) -> tuple:
            return (1, 0)

    with pytest.raises(KeyboardInterrupt):
        intflash.attend(Interrupted(), GOOD["key"], GOOD["value"])


def test_causal_without_a_truth_is_refused():
    with pytest.raises(ValueError, match="ambiguous"):
        intflash.attend(**GOOD, causal=np.array([1, 2]))


def test_states_of_other_ranks_are_refused():
    out, lse = np.ones((2, 3, 8), np.float32), np.ones((2, 3), np.float32)
    with pytest.raises(intflash.ShapeError):
        intflash.merge_states([out, np.ones((2, 3, 8, 0), np.float32)], [lse, lse])
    with pytest.raises(intflash.ShapeError):
        intflash.merge_states([out], [np.ones((2, 3, 0), np.float32)])


def test_states_may_come_from_an_iterator():
    out, lse = random(2, 3, 8, seed=0), random(2, 3, seed=1)
    merged, _ = intflash.merge_states(
        (DlpackOnly(out.copy()) for _ in range(2)), (DlpackOnly(lse.copy()) for _ in range(2))
    )
    np.testing.assert_allclose(np.asarray(merged), out, rtol=1e-5)


def test_a_cap_that_is_zero_in_float32_is_refused():
    with pytest.raises(intflash.ScaleError, match="cap is 1e-60"):
        intflash.attend(**GOOD, cap=1e-60)


def test_bfloat16_of_the_other_order_of_bytes_is_refused():
    swapped = GOOD["query"].astype(ml_dtypes.bfloat16)
    swapped = swapped.view(swapped.dtype.newbyteorder())
    with pytest.raises(intflash.UnsupportedError, match="order of bytes"):
        intflash.attend(swapped, GOOD["key"], GOOD["value"])
