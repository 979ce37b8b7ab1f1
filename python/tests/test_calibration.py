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
@pytest.mark.parametrize("by_head", [False, True])
def test_caches_are_as_the_command_chose(tmp_path, by_head):
    random = np.random.default_rng(1)
    for layer in (2, 5):
        for name, heads, tokens in (("q", 4, 8), ("k", 2, 640), ("v", 2, 640)):
            array = random.standard_normal((heads, tokens, 16), np.float32)
            if name == "k":
                array[1] *= 0.01  # which few bits do not harm
            np.save(tmp_path / f"{layer}_{name}.npy", array + (layer if name == "k" else 0))
    names = {"query": "q", "key": "k", "value": "v", "key-center": "kc", "value-center": "vc"}
    arguments = ["calibrate", "--layers", "2,5", "--budget", "40", "--out", "codecs.json"]
    if by_head:
        arguments.append("--by-head")
    for option, name in names.items():
        arguments += [f"--{option}", f"{{}}_{name}.npy"]
    command = [sys.executable, "-m", "intflash", *arguments]
    subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    report = json.loads((tmp_path / "codecs.json").read_text())
    caches = intflash.load_calibration(tmp_path / "codecs.json")
    assert list(caches) == [2, 5]
    for layer in report["layers"]:
        number = layer["layer"]
        assert len(caches[number]) == len(layer["groups"])
        assert [h for found in caches[number] for h in found.kv_heads] == [0, 1]
        for group, found in zip(layer["groups"], caches[number], strict=True):
            key_center = np.asarray(found.options["key_center"])
            centers = np.load(tmp_path / f"{number}_kc.npy")[found.kv_heads]
            np.testing.assert_array_equal(key_center[0], centers)
            np.testing.assert_allclose(key_center, number, atol=0.2)
            heads = len(found.kv_heads)
            with intflash.Cache(kv_heads=heads, head_dim=16, pages=4, **found.options) as cache:
                info = cache.info()
            assert info.codec == group["codec"]
            assert (info.window_blocks, info.sink_blocks) == (
                group["window_blocks"],
                group["sink_blocks"],
            )
            assert info.bytes_per_token == heads * group["bytes_per_token"]
    sizes = {len(groups) for groups in caches.values()}
    assert sizes == {1} if not by_head else 2 in sizes


GROUP = {
    "first_kv_head": 0,
    "kv_heads": 2,
    "codec": "int8",
    "window_blocks": 0,
    "sink_blocks": 0,
}
LAYER = {"layer": 0, "kv_heads": 2, "groups": [GROUP]}
PLAIN = {**LAYER, "key_center": None, "value_center": None}
TEXT = {**PLAIN, "groups": [{**GROUP, "window_blocks": "4"}]}
CENTRED = {**PLAIN, "key_center": "kc.npy"}
GAP = {**PLAIN, "groups": [{**GROUP, "kv_heads": 1}, {**GROUP, "first_kv_head": 2, "kv_heads": 1}]}
SHORT = {**PLAIN, "kv_heads": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a file of intflash calibrate"),
        ("[]", "not a file of intflash calibrate"),
        ('{"layers": []}', "not a file of intflash calibrate"),
        ('{"intflash_calibration": 1}', "version 1 where 2 is read"),
        ('{"intflash_calibration": 2}', "no list of layers"),
        (json.dumps({"intflash_calibration": 2, "layers": [5]}), "a layer without layer"),
        (json.dumps({"intflash_calibration": 2, "layers": [LAYER]}), "a layer without key_center"),
        (json.dumps({"intflash_calibration": 2, "layers": [PLAIN, PLAIN]}), "0 stands there twice"),
        (
            json.dumps({"intflash_calibration": 2, "layers": [TEXT]}),
            "a layer without window_blocks",
        ),
        (json.dumps({"intflash_calibration": 2, "layers": [CENTRED]}), "kc.npy: "),
        (json.dumps({"intflash_calibration": 2, "layers": [GAP]}), "not its 2 kv heads"),
        (json.dumps({"intflash_calibration": 2, "layers": [SHORT]}), "not its 3 kv heads"),
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
