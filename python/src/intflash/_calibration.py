# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""What ``intflash calibrate --budget`` chose for the layers of a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from . import _core
from ._errors import BadFileError

CENTERS = ("key_center", "value_center")


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
        path: of the file that ``intflash calibrate --budget ... --out`` wrote.

    Returns:
        By the layer's number its kv heads in order: all of them together, or, with ``--by-head``,
        those that have one codec. Query heads ``kv_heads`` times as many attend them.

    Raises:
        BadFileError: not such a file, or of another version.
        OSError: a file that cannot be read.
        UnsupportedError: a package that was built without nlohmann-json.
    """
    with open(path, "rb") as file:
        try:
            loaded = _core.load_calibration(file.read)
        except BadFileError as error:
            raise BadFileError(f"{os.fspath(path)}: {error}") from None
    groups: dict[int, list[HeadGroup]] = {}
    for layer, first, heads, dim, dim_v, codec, window_blocks, sink_blocks, _, *centers in loaded:
        options = {"codec": codec, "window_blocks": window_blocks, "sink_blocks": sink_blocks}
        for name, center, channels in zip(CENTERS, centers, (dim, dim_v), strict=True):
            if center is not None:
                options[name] = memoryview(center).cast("f", (1, heads, channels))
        groups.setdefault(layer, []).append(HeadGroup(range(first, first + heads), options))
    return groups
