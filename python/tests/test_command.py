# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""python -m intflash, and attend to the command's bits: both are one library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import random

import intflash
from intflash.__main__ import COMMAND

DATA = Path(__file__).parents[2] / "data"
needs_command = pytest.mark.skipif(not COMMAND.exists(), reason="the wheel is without the command")


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "intflash", *map(str, arguments)], capture_output=True, text=True
    )


@needs_command
def test_the_command_tells_the_same_as_info():
    shown = json.loads(run_command("info", "--json").stdout)
    assert shown["version"] == intflash.__version__
    assert run_command("info").returncode == 0
    assert run_command("bench", "--help").returncode == 0
    assert run_command("nonsense").returncode != 0


@needs_command
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--causal"], {"causal": True}),
        (["--mask", "causal-top-left"], {"causal": "top_left"}),
        (["--window", "9"], {"causal": True, "window": (9, 0)}),
        (["--prefix-len", "30"], {"causal": True, "prefix": 30}),
        (["--softmax-scale", "0.25"], {"scale": 0.25}),
        (["--score-cap", "3"], {"cap": 3}),
        (["--center", "kv", "--rotate", "off"], {"center": "key_value", "rotate": False}),
        (["--center", "k"], {"center": "key"}),
        (["--score-digits", "2"], {"score_digits": 2}),
        (["--mode", "exact"], {"mode": "exact"}),
        (["--mode", "intfa"], {"mode": "intfa"}),
        (["--additive-mask", "mask.npy"], {"mask": "mask"}),
        (["--additive-mask", "keep.npy"], {"mask": "keep"}),
        (["--sinks", "sinks.npy"], {"sinks": "sinks"}),
        (["--alibi-slopes", "alibi.npy", "--causal"], {"alibi": "alibi", "causal": True}),
    ],
)
def test_attend_gives_the_bits_of_the_command(tmp_path, monkeypatch, arguments, options, dtype):
    monkeypatch.chdir(tmp_path)
    arrays = {
        "query": random(2, 4, 50, 64, seed=1, dtype=dtype),
        "key": random(2, 2, 90, 64, seed=2, dtype=dtype),
        "value": random(2, 2, 90, 32, seed=3, dtype=dtype),
        "mask": random(50, 90, seed=4),
        "keep": random(50, 90, seed=5) < 0.5,
        "sinks": random(4, seed=6),
        "alibi": np.abs(random(4, seed=7)),
    }
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    inputs = [f"--{name}={name}.npy" for name in ("query", "key", "value")]
    done = run_command("attend", *inputs, "--out", "out.npy", "--lse", "lse.npy", *arguments)
    assert done.returncode == 0, done.stderr

    named = {
        name: arrays[value] if value in ("mask", "keep", "sinks", "alibi") else value
        for name, value in options.items()
    }
    out = np.zeros((2, 4, 50, 32), np.float32)
    _, lse = intflash.attend(*list(arrays.values())[:3], out=out, lse=True, **named)
    assert np.array_equal(out, np.load("out.npy"))
    assert np.array_equal(lse, np.load("lse.npy"))


@needs_command
@pytest.mark.parametrize(("name", "causal"), [("minilm_l5", False), ("tinyllama_l5", True)])
def test_real_tensors_give_the_bits_of_the_command(tmp_path, name, causal):
    files = [DATA / f"{name}_{part}.npy" for part in "qkv"]
    done = run_command(
        "attend", "--query", files[0], "--key", files[1], "--value", files[2],
        "--out", tmp_path / "out.npy", *(["--causal"] if causal else []),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    query, key, value = (np.load(file) for file in files)
    out = np.zeros(query.shape, np.float32)
    intflash.attend(query, key, value, causal=causal, out=out)
    assert np.array_equal(out, np.load(tmp_path / "out.npy"))
