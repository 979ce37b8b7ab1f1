# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding of keys that are stored, and of queries that attend them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Rope:
    """Tables of a rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2).

    Pair i of a row at position p, ``(x, y)``, becomes ``(x * cos[p, i] - y * sin[p, i],
    x * sin[p, i] + y * cos[p, i])`` before anything else is done to it, in float32.

    Args:
        cos: ``(positions, pairs)`` in float32, at most 16 in magnitude. The first ``2 * pairs``
            channels are turned. Read where it lies, unless its rows have gaps.
        sin: the same.
        pairing: ``"halves"``, of channels i and i + pairs (GPT-NeoX, transformers), or
            ``"adjacent"``, of channels 2 i and 2 i + 1 (GPT-J, llama as published).
    """

    cos: Any
    sin: Any
    pairing: Literal["halves", "adjacent"] = "halves"
