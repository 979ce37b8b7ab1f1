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
    names = {"query": "q", "key": "k", "value": "v"}
    arguments = ["calibrate", "--layers", "2,5", "--budget", "40", "--out", "codecs.json"]
    arguments.append("--centers")
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
            centers = np.load(tmp_path / f"{number}_k.npy").mean(1, dtype=np.float64)
            np.testing.assert_array_equal(key_center[0], np.float32(centers[found.kv_heads]))
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
    "score_digits": 1,
}
LAYER = {
    "layer": 0,
    "kv_heads": 2,
    "head_dim": 8,
    "head_dim_v": 16,
    "key_center": None,
    "value_center": [[0.5] * 16, [0.1] * 16],
    "groups": [GROUP],
}


@pytest.mark.skipif(not COMMAND.exists(), reason="as much is needed for the command")
def test_other_files_are_refused(tmp_path):
    path = tmp_path / "codecs.json"
    path.write_text(json.dumps({"intflash_calibration": 3, "layers": [LAYER]}))
    [[group]] = intflash.load_calibration(path).values()
    assert group.kv_heads == range(2)
    assert sorted(group.options) == ["codec", "sink_blocks", "value_center", "window_blocks"]
    assert np.asarray(group.options["value_center"]).tolist() == [
        np.float32(LAYER["value_center"]).tolist()
    ]
    for text, message in (
        ("{", "not JSON"),
        ('{"intflash_calibration": 2}', "version 2 where 3 is read"),
        (json.dumps({"intflash_calibration": 3, "layers": [LAYER, LAYER]}), "there twice"),
    ):
        path.write_text(text)
        with pytest.raises(intflash.BadFileError, match=f"codecs.json: .*{message}"):
            intflash.load_calibration(path)
    with pytest.raises(FileNotFoundError):
        intflash.load_calibration(tmp_path / "none.json")


@pytest.mark.skipif(not COMMAND.exists(), reason="as much is needed for the command")
def test_what_reading_raises_is_raised(tmp_path):
    text = json.dumps({"intflash_calibration": 3, "layers": [LAYER]}).encode()
    parts = iter([text])

    def read(size):
        return next(parts)

    with pytest.raises(StopIteration):
        intflash._core.load_calibration(read)
