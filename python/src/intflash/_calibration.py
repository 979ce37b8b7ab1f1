# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""What ``intflash calibrate --budget`` chose for the layers of a model."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._errors import BadFileError

_VERSION = 2
_OPTIONS = (("codec", str), ("window_blocks", int), ("sink_blocks", int))
_CENTERS = ("key_center", "value_center")


@dataclass(frozen=True)
class HeadGroup:
    """Adjacent kv heads of a layer that have one codec: those of a `Cache` of their own."""

    kv_heads: range
    options: dict[str, Any]
    """What `Cache` takes by name: codec, window_blocks, sink_blocks, and key_center and
    value_center ``(1, len(kv_heads), dim)`` where centres were measured."""


def load_calibration(path: str | os.PathLike[str]) -> dict[int, list[HeadGroup]]:
    """Read which caches each layer of a model is to have.

    Args:
        path: of the file that ``intflash calibrate --budget ... --out`` wrote; files of centres
            are where it names them, from its folder on.

    Returns:
        By the layer's number its kv heads in order: all of them together, or, with ``--by-head``,
        those that have one codec. Query heads ``kv_heads`` times as many attend them.

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
    groups: dict[int, list[HeadGroup]] = {}
    for layer in layers:
        number = _checked(path, layer, "layer", int)
        if number in groups:
            raise BadFileError(f"{path}: layer {number} stands there twice")
        groups[number] = _groups(path, layer)
    return groups


def _groups(path: Path, layer: dict[str, Any]) -> list[HeadGroup]:
    heads = _checked(path, layer, "kv_heads", int)
    centers = {}
    for name in _CENTERS:
        center = _checked(path, layer, name, (str, type(None)))
        if center is not None:
            centers[name] = _center(path.parent / center, heads)
    groups: list[HeadGroup] = []
    end = 0
    for group in _checked(path, layer, "groups", list):
        options = {name: _checked(path, group, name, kind) for name, kind in _OPTIONS}
        begin = _checked(path, group, "first_kv_head", int)
        end, gap = begin + _checked(path, group, "kv_heads", int), begin - end
        if gap != 0 or end <= begin:
            break
        for name, (dim, elements) in centers.items():
            part = elements[4 * dim * begin : 4 * dim * end]
            options[name] = part.cast("f", (1, end - begin, dim))
        groups.append(HeadGroup(range(begin, end), options))
    if not groups or gap != 0 or end != heads:
        raise BadFileError(f"{path}: groups of a layer that are not its {heads} kv heads")
    return groups


def _checked(path: Path, layer: Any, name: str, kind: Any) -> Any:
    value = layer.get(name, ...) if isinstance(layer, dict) else ...
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadFileError(f"{path}: a layer without {name}, or with one that is none")
    return value


def _center(path: Path, kv_heads: int) -> tuple[int, memoryview]:
    """Read ``[kv_heads, dim]`` in float32, as the command writes it: dim, and the bytes."""
    contents = path.read_bytes()
    begin = 10 + int.from_bytes(contents[8:10], "little")
    try:
        header = ast.literal_eval(contents[10:begin].decode("latin-1").strip())
        heads, dim = header["shape"]
        known = header["descr"] == "<f4" and not header["fortran_order"]
        known = known and heads == kv_heads and type(dim) is int and dim > 0
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        known = False
    if contents[:7] != b"\x93NUMPY\x01" or not known:
        raise BadFileError(f"{path}: not [{kv_heads}, dim] in float32")
    if len(contents) - begin != 4 * kv_heads * dim:
        raise BadFileError(f"{path}: cut short")
    return dim, memoryview(contents)[begin:]
