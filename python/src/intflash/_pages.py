# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Pages of INT8 codes, whose tables are the caller's."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from typing import Any, Literal

from . import _core
from ._attend import Array
from ._errors import ArgumentError
from ._rope import Rope

Codec = Literal["int8", "int8_wide", "k8v4", "k4v4", "k4v2", "k2v2", "k8v16"]


@dataclass(frozen=True)
class CacheInfo:
    """A cache's shape, and how full it is."""

    layers: int
    kv_heads: int
    head_dim: int
    head_dim_v: int
    page_size: int  # tokens
    pages: int
    free_pages: int  # that no sequence holds
    sequences: int
    page_bytes: int  # of one page in one layer
    bytes_per_token: int  # in one layer
    codec: str
    rotates_keys: bool
    rotates_values: bool
    window_blocks: int
    sink_blocks: int
    window_pages: int
    free_window_pages: int
    window_page_bytes: int


def _count_layers(memory: abc.Sequence[Any] | None, layers: int | None) -> int:
    """Count the arrays, of which there is one for each layer."""
    count = 0 if memory is None else len(memory)
    if count == 0 or layers not in (None, count):
        raise ArgumentError(f"memory has {count} arrays: one for each layer is wanted")
    return count


class Paged:
    """What caches are made of: pages in memory of their own, or of the caller's."""

    _wants_memory = False

    def __init__(
        self,
        memory: abc.Sequence[Any] | None = None,
        *,
        layers: int | None = None,
        kv_heads: int,
        head_dim: int,
        pages: int,
        head_dim_v: int | None = None,
        page_size: int = 64,
        codec: Codec = "int8",
        rotate: bool = True,
        key_center: Array | None = None,
        value_center: Array | None = None,
        threads: int | None = None,
        window_blocks: int = 0,
        sink_blocks: int = 0,
        window_pages: int = 0,
    ) -> None:
        if memory is not None or self._wants_memory:
            layers = _count_layers(memory, layers)
        if self._wants_memory and window_blocks != 0:
            raise ArgumentError(f"window_blocks is {window_blocks}: a Cache alone has a window")
        self._dropped: list[int] = []  # sequences of nobody's, that are yet to be freed
        self._core = _core.Cache(
            kv_heads,
            head_dim,
            head_dim_v,
            pages,
            page_size,
            1 if layers is None else layers,
            codec,
            rotate,
            key_center,
            value_center,
            threads,
            memory,
            window_blocks,
            sink_blocks,
            window_pages,
        )

    def close(self) -> None:
        """Give the memory back. Every later call is an ArgumentError.

        Raises:
            BusyError: a call is using it.
        """
        self._core.close()


class Pages(Paged):
    """Keys and values in pages of the caller's memory, by page tables that the caller keeps.

    For servers that have a pool of blocks. A page holds page_size tokens of all kv heads, in
    ``page_size * kv_heads * (head_dim + head_dim_v + 12)`` bytes, with codec ``"int8_wide"`` in
    ``page_size * kv_heads * (head_dim + 4)`` more, with ``"k8v16"`` in
    ``page_size * kv_heads * head_dim_v`` more, and with ``"k8v4"`` in half of that less, head_dim_v
    padded to 16; page p of a layer begins at p times that. Which pages are a request's is said in
    each `Batch`. Pages may be copied and moved as bytes; what else a `Cache` promises holds here as
    well.

    Args are those of `Cache`, of which memory must be given, and window_blocks not.

    Raises:
        ArgumentError: a value that breaks a rule, or memory that is too small or not aligned.
    """

    _wants_memory = True

    def info(self) -> CacheInfo:
        """Tell their shape. No sequence holds any of them: all are free."""
        return CacheInfo(*self._core.info())

    def append(
        self,
        key: Array,
        value: Array,
        slots: Array,
        *,
        layer: int = 0,
        rope: Rope | None = None,
        positions: Array | None = None,
    ) -> None:
        """Store tokens in one layer.

        Args:
            key: ``(tokens, kv_heads, head_dim)``; float32, float16, bfloat16, float8_e4m3fn or
                float8_e5m2.
            value: the same, of head_dim_v.
            slots: where each token goes, ``page * page_size + its place in the page``, or -1 for
                nowhere: ``(tokens,)`` in int64. None twice. What goes to a place that is a multiple
                of 64 makes that and the 63 after it empty: tokens of a page come in order.
            layer: of the pages.
            rope: by which keys are turned.
            positions: with rope, at which position each token stands: ``(tokens,)`` in int64.

        Raises:
            ArgumentError: a slot that is not there, or named twice; nothing is stored.
            NonfiniteInputError: NaN or infinity; the same.
            BusyError: another thread is using the pages; the same.
        """
        self._core.store(key, value, slots, layer, rope, positions)
