# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""load_calibration gives what Cache takes, and refuses what calibrate did not write."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import intflash
from intflash.__main__ import COMMAND


@pytest.mark.skipif(not COMMAND.exists(), reason="the wheel is without the command")
def test_caches_are_as_the_command_chose(tmp_path):
    random = np.random.default_rng(1)
    for layer in (2, 5):
        for name, heads, tokens in (("q", 2, 8), ("k", 1, 640), ("v", 1, 640)):
            array = random.standard_normal((heads, tokens, 16), np.float32)
            np.save(tmp_path / f"{layer}_{name}.npy", array + (layer if name == "k" else 0))
    names = {"query": "q", "key": "k", "value": "v", "key-center": "kc", "value-center": "vc"}
    arguments = ["calibrate", "--layers", "2,5", "--budget", "40", "--out", "codecs.json"]
    for option, name in names.items():
        arguments += [f"--{option}", f"{{}}_{name}.npy"]
    command = [sys.executable, "-m", "intflash", *arguments]
    subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    report = json.loads((tmp_path / "codecs.json").read_text())
    caches = intflash.load_calibration(tmp_path / "codecs.json")
    assert list(caches) == [2, 5]
    for layer in report["layers"]:
        number = layer["layer"]
        key_center = np.asarray(caches[number]["key_center"])
        np.testing.assert_array_equal(key_center[0], np.load(tmp_path / f"{number}_kc.npy"))
        np.testing.assert_allclose(key_center, number, atol=0.2)
        with intflash.Cache(kv_heads=1, head_dim=16, pages=4, **caches[number]) as cache:
            info = cache.info()
        assert info.codec == layer["codec"]
        assert (info.window_blocks, info.sink_blocks) == (
            layer["window_blocks"],
            layer["sink_blocks"],
        )
        assert info.bytes_per_token == layer["bytes_per_token"]


LAYER = {"layer": 0, "codec": "int8", "window_blocks": 0, "sink_blocks": 0}
PLAIN = {**LAYER, "key_center": None, "value_center": None}
TEXT = {**PLAIN, "window_blocks": "4"}
CENTRED = {**PLAIN, "key_center": "kc.npy"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a file of intflash calibrate"),
        ("[]", "not a file of intflash calibrate"),
        ('{"layers": []}', "not a file of intflash calibrate"),
        ('{"intflash_calibration": 2}', "version 2 where 1 is read"),
        ('{"intflash_calibration": 1}', "no list of layers"),
        (json.dumps({"intflash_calibration": 1, "layers": [5]}), "a layer without layer"),
        (json.dumps({"intflash_calibration": 1, "layers": [LAYER]}), "a layer without key_center"),
        (json.dumps({"intflash_calibration": 1, "layers": [PLAIN, PLAIN]}), "0 stands there twice"),
        (
            json.dumps({"intflash_calibration": 1, "layers": [TEXT]}),
            "a layer without window_blocks",
        ),
        (json.dumps({"intflash_calibration": 1, "layers": [CENTRED]}), "kc.npy: "),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "codecs.json"
    path.write_text(text)
    for center in (
        b"",
        np.zeros((2, 2)),
        np.zeros((0, 2), np.float32),
        np.zeros((2, 2), np.float32),
    ):
        with open(tmp_path / "kc.npy", "wb") as file:
            if isinstance(center, bytes):
                file.write(center)
            else:
                np.save(file, center)
        if isinstance(center, np.ndarray) and center.dtype == np.float32 and center.size > 0:
            contents = (tmp_path / "kc.npy").read_bytes()
            (tmp_path / "kc.npy").write_bytes(contents[:-1])
        with pytest.raises(intflash.BadFileError, match=message):
            intflash.load_calibration(path)
