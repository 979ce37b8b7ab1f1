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
_OPTIONS = (("codec", str), ("window_blocks", int), ("sink_blocks", int))
_CENTERS = ("key_center", "value_center")


def load_calibration(path: str | os.PathLike[str]) -> dict[int, dict[str, Any]]:
    """Read which cache each layer of a model is to have.

    Args:
        path: of the file that ``intflash calibrate --budget ... --out`` wrote; files of centres
            are where it names them, from its folder on.

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
        version, layers = report["intflash_calibration"], report.get("layers")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadFileError(f"{path}: not a file of intflash calibrate --budget") from None
    if version != _VERSION:
        raise BadFileError(f"{path}: version {version} where {_VERSION} is read")
    if not isinstance(layers, list):
        raise BadFileError(f"{path}: no list of layers")
    options: dict[int, dict[str, Any]] = {}
    for layer in layers:
        number = _checked(path, layer, "layer", int)
        if number in options:
            raise BadFileError(f"{path}: layer {number} stands there twice")
        options[number] = {name: _checked(path, layer, name, kind) for name, kind in _OPTIONS}
        for name in _CENTERS:
            center = _checked(path, layer, name, (str, type(None)))
            if center is not None:
                options[number][name] = _center(path.parent / center)
    return options


def _checked(path: Path, layer: Any, name: str, kind: Any) -> Any:
    value = layer.get(name, ...) if isinstance(layer, dict) else ...
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadFileError(f"{path}: a layer without {name}, or with one that is none")
    return value


def _center(path: Path) -> memoryview:
    """Read ``[heads, dim]`` in float32, as the command writes it, with an axis of layers."""
    contents = path.read_bytes()
    begin = 10 + int.from_bytes(contents[8:10], "little")
    try:
        header = ast.literal_eval(contents[10:begin].decode("latin-1").strip())
        heads, dim = header["shape"]
        known = header["descr"] == "<f4" and not header["fortran_order"]
        known = known and all(type(size) is int and size > 0 for size in (heads, dim))
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        known = False
    if contents[:7] != b"\x93NUMPY\x01" or not known:
        raise BadFileError(f"{path}: not [heads, dim] in float32")
    if len(contents) - begin != 4 * math.prod((heads, dim)):
        raise BadFileError(f"{path}: cut short")
    return memoryview(contents)[begin:].cast("f", (1, heads, dim))
