# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""What ``intflash calibrate --budget`` chose for the layers of a model."""

from __future__ import annotations

import ast
import json
import math
import os
from pathlib import Path
from typing import Any

from ._errors import BadFileError

_VERSION = 1
_OPTIONS = ("codec", "window_blocks", "sink_blocks")
_CENTERS = ("key_center", "value_center")


def load_calibration(path: str | os.PathLike[str]) -> dict[int, dict[str, Any]]:
    """Read which cache each layer of a model is to have.

    Args:
        path: of the file that ``intflash calibrate --budget ... --out`` wrote, with the files of
            centres that it names beside it.

    Returns:
        By the layer's number, what `Cache` takes by name: codec, window_blocks, sink_blocks, and
        key_center and value_center ``(1, kv_heads, dim)`` where centres were measured. A cache has
        one codec: layers of different ones have caches of their own.

    Raises:
        BadFileError: not such a file, or of another version.
        OSError: a file that cannot be read.
    """
    path = Path(path)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        version = report["intflash_calibration"]
    except (ValueError, TypeError, KeyError):
        raise BadFileError(f"{path}: not a file of intflash calibrate --budget") from None
    if version != _VERSION:
        raise BadFileError(f"{path}: version {version} where {_VERSION} is read")
    try:
        return {layer["layer"]: _options(layer, path.parent) for layer in report["layers"]}
    except (TypeError, KeyError) as error:
        raise BadFileError(f"{path}: a layer lacks {error}") from None


def _options(layer: dict[str, Any], folder: Path) -> dict[str, Any]:
    options = {name: layer[name] for name in _OPTIONS}
    for name in _CENTERS:
        if layer[name] is not None:
            options[name] = _center(folder / layer[name])
    return options


def _center(path: Path) -> memoryview:
    """Read ``[heads, dim]`` in float32, as the command writes it, with an axis of layers."""
    contents = path.read_bytes()
    begin = 10 + int.from_bytes(contents[8:10], "little")
    try:
        header = ast.literal_eval(contents[10:begin].decode("latin-1").strip())
        heads, dim = header["shape"]
        known = header["descr"] == "<f4" and not header["fortran_order"]
    except (ValueError, SyntaxError, TypeError, KeyError):
        known = False
    if contents[:7] != b"\x93NUMPY\x01" or not known:
        raise BadFileError(f"{path}: not [heads, dim] in float32")
    if len(contents) - begin != 4 * math.prod((heads, dim)):
        raise BadFileError(f"{path}: cut short")
    return memoryview(contents)[begin:].cast("f", (1, heads, dim))
