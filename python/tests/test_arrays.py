# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Whose arrays are read, and in place."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from oracle import random

import intflash

SHAPE = (2, 3, 40, 32)


class DlpackOnly:
    """An array that speaks DLPack alone, as it was before or since version 1.0."""

    def __init__(self, array: np.ndarray, *, versioned: bool = True, device: tuple = (1, 0)):
        self.array, self.versioned, self.device_pair = array, versioned, device

    def __dlpack_device__(self) -> tuple:
        return self.device_pair

    def __dlpack__(self, **options: object) -> object:
        if options and not self.versioned:
            raise TypeError("unexpected keyword argument")
        return self.array.__dlpack__(**options)


class ArrayOfNamespace(DlpackOnly):
    """An array of the array API's standard."""

    def __array_namespace__(self) -> object:
        return np


@pytest.fixture
def inputs() -> list[np.ndarray]:
    return [random(*SHAPE, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture
def wanted(inputs) -> np.ndarray:
    return intflash.attend(*inputs, causal=True)


@pytest.mark.parametrize("versioned", [False, True])
def test_dlpack_alone_is_read(inputs, wanted, versioned):
    given = [DlpackOnly(array, versioned=versioned) for array in inputs]
    out = intflash.attend(*given, causal=True)
    assert np.array_equal(np.from_dlpack(out), wanted)
    assert np.array_equal(np.asarray(memoryview(out)), wanted)


def test_an_array_namespace_makes_the_output(inputs, wanted):
    out = intflash.attend(*[ArrayOfNamespace(array) for array in inputs], causal=True)
    assert type(out) is np.ndarray
    assert np.array_equal(out, wanted)


def test_buffers_are_read(inputs, wanted):
    out = intflash.attend(*[memoryview(array) for array in inputs], causal=True)
    assert np.array_equal(np.asarray(out), wanted)


def test_read_only_inputs_are_read(inputs, wanted):
    for array in inputs:
        array.flags.writeable = False
    assert np.array_equal(intflash.attend(*inputs, causal=True), wanted)


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (1, 0, 2, 3), (0, 2, 1, 3), (2, 1, 0, 3)])
def test_strided_views_are_read_and_written_in_place(inputs, wanted, axes):
    back = np.argsort(axes)
    views = [np.ascontiguousarray(array.transpose(axes)).transpose(back) for array in inputs]
    padded = np.full([n + 3 for n in np.array(SHAPE)[list(axes)]], 7, np.float32)
    out = padded[tuple(slice(1, 1 + SHAPE[a]) for a in axes)].transpose(back)
    assert intflash.attend(*views, causal=True, out=out) is out  # and warns of no copy
    assert np.array_equal(out, wanted)
    assert (padded == 7).sum() == padded.size - out.size


def test_repeated_inputs_have_stride_0(inputs):
    query, key, value = inputs
    views = [np.broadcast_to(array[:1, :1], SHAPE) for array in (key, value)]
    assert np.array_equal(
        intflash.attend(query, *views), intflash.attend(query, *(view.copy() for view in views))
    )


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(
    "spread",
    [
        lambda array: np.repeat(array, 2, axis=3)[..., ::2],
        lambda array: np.ascontiguousarray(array.swapaxes(2, 3)).swapaxes(2, 3),
        lambda array: array[:, :, ::-1].copy()[:, :, ::-1],
        lambda array: (
            np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view("<f4").reshape(SHAPE)
        ),
    ],
    ids=["spread", "transposed", "backwards", "misaligned"],
)
def test_what_cannot_be_read_in_place_is_copied_with_a_warning(inputs, wanted, which, spread):
    inputs[which] = spread(inputs[which])
    name = ("query", "key", "value")[which]
    with pytest.warns(intflash.CopyWarning, match=f"^{name} is copied") as caught:
        out = intflash.attend(*inputs, causal=True)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.array_equal(out, wanted)


def test_a_mask_is_copied_with_a_warning_too(inputs):
    keep = np.random.default_rng(1).random((40, 40)) < 0.5
    wanted = intflash.attend(*inputs, mask=keep)
    with pytest.warns(intflash.CopyWarning, match="^mask "):
        assert np.array_equal(intflash.attend(*inputs, mask=np.asfortranarray(keep)), wanted)


def test_a_warning_that_is_an_error_ends_the_call(inputs):
    inputs[1] = np.asfortranarray(inputs[1])
    with pytest.raises(intflash.CopyWarning):  # as pyproject.toml says
        intflash.attend(*inputs)


def test_sixteen_bits_are_read_in_place_as_well():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        arrays = [random(*SHAPE, seed=seed, dtype=dtype) for seed in (1, 2, 3)]
        wanted = intflash.attend(*arrays)
        views = [np.ascontiguousarray(array.swapaxes(1, 2)).swapaxes(1, 2) for array in arrays]
        assert np.array_equal(intflash.attend(*views), wanted)


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_eight_bits_give_the_bits_of_the_same_numbers_in_float32(dtype):
    arrays = [random(*SHAPE, seed=seed, dtype=dtype) for seed in (1, 2, 3)]
    wanted = intflash.attend(*(array.astype(np.float32) for array in arrays))
    views = [np.ascontiguousarray(array.swapaxes(1, 2)).swapaxes(1, 2) for array in arrays]
    out = intflash.attend(*views)
    assert out.dtype == np.float32
    assert np.array_equal(out, wanted)
    with pytest.raises(intflash.UnsupportedError, match="out has dtype float8"):
        intflash.attend(*arrays, out=np.zeros(SHAPE, dtype))
    with pytest.raises(intflash.UnsupportedError, match="mask has dtype float8"):
        intflash.attend(*arrays, mask=np.zeros((SHAPE[2], SHAPE[2]), dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_out_has_the_dtype_that_it_comes_with(inputs, dtype):
    out = np.zeros(SHAPE, dtype)
    intflash.attend(*inputs, out=out)
    wanted = intflash.attend(*inputs)
    assert np.array_equal(out, wanted.astype(dtype))


def test_importing_the_package_imports_no_array_library():
    code = "import sys, intflash; print({'numpy', 'torch'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_an_array_without_numpy_is_attended():
    code = """
import array, intflash, sys
numbers = array.array("f", [float(i % 7) for i in range(4 * 5 * 8)])
q = memoryview(numbers).cast("B").cast("f", (4, 5, 8))
print(memoryview(intflash.attend(q, q, q)).shape, "numpy" in sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "(4, 5, 8) False"


def test_references_are_given_back(inputs):
    before = [sys.getrefcount(array) for array in inputs]
    for _ in range(10):
        intflash.attend(*inputs, lse=True)
        with pytest.raises(intflash.UnsupportedError):
            intflash.attend(inputs[0], inputs[1].astype(np.float64), inputs[2])
    assert [sys.getrefcount(array) for array in inputs] == before
    array = inputs[1].astype(np.float64)
    with pytest.raises(intflash.UnsupportedError):
        intflash.attend(inputs[0], array, inputs[2])
    array.resize((1,))  # which NumPy refuses while a buffer is held
