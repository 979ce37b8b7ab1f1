# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The module that is compiled: python/module of the sources."""

from collections.abc import Callable, Iterable
from typing import Any

version: str

def ports() -> list[tuple[str, bool, bool, str]]: ...
def context_info(threads: int | None) -> tuple[str, str, str, int]: ...
def attend(
    query: Any,
    key: Any,
    value: Any,
    causal: bool | str,
    window: tuple[int | None, int | None] | None,
    prefix: int | None,
    scale: float | None,
    cap: float | None,
    mask: Any,
    tree: Any,
    sinks: Any,
    alibi: Any,
    query_scale: Any,
    key_scale: Any,
    value_scale: Any,
    center: Any,
    rotate: bool,
    score_digits: int | None,
    mode: str,
    lse: bool,
    out: Any,
    threads: int | None,
) -> Any: ...
def sdpa(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Any: ...
def merge_states(outs: Iterable[Any], lses: Iterable[Any]) -> tuple[Any, Any]: ...
def load_calibration(
    read: Callable[[int], bytes],
) -> list[tuple[int, int, int, int, int, str, int, int, int, bytes | None, bytes | None]]: ...

class Cache:
    def __init__(
        self,
        kv_heads: int,
        head_dim: int,
        head_dim_v: int | None,
        pages: int,
        page_size: int,
        layers: int,
        codec: str,
        rotate: bool,
        key_center: Any,
        value_center: Any,
        threads: int | None,
        memory: Iterable[Any] | None,
        window_blocks: int,
        sink_blocks: int,
        window_pages: int,
    ) -> None: ...
    def close(self) -> None: ...
    def create(self) -> int: ...
    def free(self, sequence: int) -> None: ...
    def fork(self, sequence: int) -> int: ...
    def truncate(self, sequence: int, kv_len: int) -> None: ...
    def drop_before(self, sequence: int, position: int) -> None: ...
    def range(self, sequence: int) -> tuple[int, int]: ...
    def pages(self, sequence: int) -> list[int]: ...
    def append(
        self,
        sequences: list[int],
        key: Any,
        value: Any,
        lengths: Iterable[int] | None,
        layer: int,
        rope: Any,
    ) -> None: ...
    def store(
        self, key: Any, value: Any, slots: Any, layer: int, rope: Any, positions: Any
    ) -> None: ...
    def export(self, sequence: int, begin: int, end: int, key: Any, value: Any) -> None: ...
    def save(self, sequence: int, write: Callable[[bytes], Any]) -> None: ...
    def load(self, read: Callable[[int], bytes]) -> int: ...
    def info(
        self,
    ) -> tuple[int, int, int, int, int, int, int, int, int, int, str, bool, bool]: ...

class Batch:
    def __init__(
        self,
        cache: Cache,
        sequences: list[int],
        tables: list[list[int]] | None,
        query_lens: Iterable[int] | None,
        kv_lens: Iterable[int] | None,
        first_positions: Iterable[int] | None,
        causal: bool | str,
        window: tuple[int | None, int | None] | None,
        prefix: int | None,
        scale: float | None,
        cap: float | None,
        score_digits: int | None,
        mode: str,
    ) -> None: ...
    @property
    def query_lens(self) -> list[int]: ...
    @property
    def kv_lens(self) -> list[int]: ...
    def run(
        self,
        query: Any,
        layer: int,
        masks: Iterable[Any] | None,
        trees: Iterable[Any] | None,
        sinks: Any,
        alibi: Any,
        rope: Any,
        lse: bool,
        out: Any,
    ) -> Any: ...
