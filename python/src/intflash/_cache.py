# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The KV cache of INT8 pages, and its sequences."""

from __future__ import annotations

import io
import os
from collections import abc
from types import TracebackType
from typing import Any, BinaryIO, Literal

from . import _core
from ._attend import Array, Causal, Mode, Window
from ._batch import Batch
from ._errors import ArgumentError, BusyError
from ._pages import CacheInfo, Paged
from ._rope import Rope

Path = str | os.PathLike[str]


class Cache(Paged):
    """Keys and values of all layers of a model, as INT8 codes in pages.

    A token of one kv head takes ``head_dim + head_dim_v + 12`` bytes in each layer, half of
    float16, and fewer where codec says so. Results do not depend, to the bit, on how tokens were
    divided between calls, on the batch, on forks, or on the number of threads.

    Calls that change a cache exclude all others: on a cache that another thread is using they raise
    BusyError, and change nothing. Readers run beside each other.

    Args:
        memory: of each layer a contiguous array for the pages, on the CPU, of any type, aligned at
            64 bytes, that nobody else writes to; by default the cache's own.
        layers: of the model; by default as many as memory has arrays, or 1.
        kv_heads: of each layer.
        head_dim: of keys, a multiple of 8, from 8 to 1024.
        pages: how many there are, each for page_size tokens of one sequence in all layers.
        head_dim_v: of values; by default head_dim.
        page_size: 64, 128 or 256 tokens.
        codec: ``"int8"``, or ``"int8_wide"``, which keeps a second digit of each key for models
            whose scores are large, in ``head_dim + 4`` bytes more, or ``"k8v4"``, which keeps
            values in four bits, in ``head_dim_v / 2`` bytes less, or ``"k4v4"``, which keeps keys
            so too, behind a window, or ``"k4v2"`` and ``"k2v2"``, whose values, and then keys,
            have two bits, or ``"k8v16"``, which keeps values in float16 for mode ``"int8_qk"``, in
            ``head_dim_v`` bytes more (docs/codecs.md).
        rotate: whether keys and values are turned by a Hadamard matrix before they are quantized.
        key_center: ``(layers, kv_heads, head_dim)`` in float32, taken off keys before they are
            quantized.
        value_center: ``(layers, kv_heads, head_dim_v)``, the same of values.
        threads: that attend; as in `attend`.
        window_blocks: a query sees the keys of so many blocks of 64 positions, up to its own, in
            INT8; of ``"k8v4"``, and of ``"k4v4"``, ``"k4v2"`` and ``"k2v2"``, at least 1. 0: no
            window.
        sink_blocks: the same of so many first blocks.
        window_pages: for what is in INT8, beside pages, which have place for every token; 0: as
            many.

    Raises:
        ArgumentError: a value that breaks a rule, or memory that is too small or not aligned.
        OutOfMemoryError: more pages than there is memory for.
    """

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def info(self) -> CacheInfo:
        """Tell the cache's shape, and how full it is."""
        self._collect()
        return CacheInfo(*self._core.info())

    def sequence(self) -> Sequence:
        """Make a sequence without tokens."""
        self._collect()
        return Sequence(self, self._core.create())

    def append(
        self,
        sequences: abc.Sequence[Sequence],
        key: Array,
        value: Array,
        *,
        layer: int = 0,
        lengths: abc.Sequence[int] | None = None,
        rope: Rope | None = None,
    ) -> None:
        """Store new tokens of some sequences in one layer.

        Layer 0 comes first, and takes the pages for all layers; the others follow with the same
        tokens.

        Args:
            sequences: each named once.
            key: ``(sequences, kv_heads, tokens, head_dim)``, or the tokens of one sequence after
                those of another as ``(tokens, kv_heads, head_dim)``; float32, float16, bfloat16,
                float8_e4m3fn or float8_e5m2.
            value: the same, of head_dim_v.
            layer: of the cache.
            lengths: tokens of each sequence, where key has 3 dimensions, there are several
                sequences, and not just one token for each.
            rope: by which keys are turned, at their positions.

        Raises:
            PoolExhaustedError: too few free pages; nothing is appended, to no sequence.
            NonfiniteInputError: NaN or infinity; the same.
            BusyError: another thread is using the cache; the same.
        """
        self._collect()
        self._core.append(self._numbers(sequences), key, value, lengths, layer, rope)

    def attend(
        self,
        sequences: abc.Sequence[Sequence],
        query: Array,
        *,
        layer: int = 0,
        query_lens: abc.Sequence[int] | None = None,
        causal: Causal = True,
        window: Window | None = None,
        prefix: int | None = None,
        scale: float | None = None,
        cap: float | None = None,
        masks: abc.Sequence[Array | None] | None = None,
        trees: abc.Sequence[Array | None] | None = None,
        sinks: abc.Sequence[float] | Array | None = None,
        alibi: abc.Sequence[float] | Array | None = None,
        rope: Rope | None = None,
        score_digits: Literal[1, 2] | None = None,
        mode: Mode | None = None,
        lse: bool = False,
        out: Array | None = None,
    ) -> Any:
        """Attend the last tokens of some sequences in one layer: a `Batch` that is run once."""
        batch = Batch(
            self,
            sequences,
            _query_lens(query, query_lens),
            causal=causal,
            window=window,
            prefix=prefix,
            scale=scale,
            cap=cap,
            score_digits=score_digits,
            mode=mode,
        )
        return batch.run(
            query,
            layer=layer,
            masks=masks,
            trees=trees,
            sinks=sinks,
            alibi=alibi,
            rope=rope,
            lse=lse,
            out=out,
        )

    def load(self, source: Path | BinaryIO | bytes | bytearray | memoryview) -> Sequence:
        """Make a sequence of saved tokens.

        Args:
            source: a path, an open file of bytes, or the bytes.

        Raises:
            BadFileError: cut short, damaged, or of a cache of another shape.
            PoolExhaustedError: too few free pages.
        """
        self._collect()
        if isinstance(source, (bytes, bytearray, memoryview)):
            source = io.BytesIO(source)
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                return Sequence(self, self._core.load(file.read))
        return Sequence(self, self._core.load(source.read))

    def _collect(self) -> None:
        """Free the sequences that nobody has any more, which need not be at a good time."""
        while self._dropped:
            try:
                number = self._dropped.pop()  # others append and take meanwhile
            except IndexError:
                return
            try:
                self._core.free(number)
            except BusyError:
                self._dropped.append(number)
                return

    def _numbers(self, sequences: abc.Sequence[Sequence]) -> list[int]:
        for sequence in sequences:
            if sequence._cache is not self:
                raise ArgumentError("sequences: one of them is of another cache")
        return [sequence._number for sequence in sequences]


class Sequence:
    """The tokens of one request, in all layers of a cache. Made by `Cache.sequence`.

    Its pages are given back when it is closed, or when nobody has it any more.
    """

    def __init__(self, cache: Cache, number: int) -> None:
        self._cache = cache
        self._open_number: int | None = number

    @property
    def _number(self) -> int:
        if self._open_number is None:
            raise ArgumentError("the sequence is closed")
        return self._open_number

    @property
    def _core(self) -> _core.Cache:
        self._cache._collect()
        return self._cache._core

    def __len__(self) -> int:
        """Position after the last token, in layer 0."""
        return self._core.range(self._number)[1]

    @property
    def first_position(self) -> int:
        """Position of the first token that is kept."""
        return self._core.range(self._number)[0]

    @property
    def pages(self) -> list[int]:
        """Numbers of the pages, in order."""
        return self._core.pages(self._number)

    def fork(self) -> Sequence:
        """Make a second sequence with the same tokens, whose pages are shared."""
        return Sequence(self._cache, self._core.fork(self._number))

    def truncate(self, length: int) -> None:
        """Keep the tokens at positions below length."""
        self._core.truncate(self._number, length)

    def drop_before(self, position: int) -> None:
        """Give back pages all of whose tokens lie before position; the rest keep their places."""
        self._core.drop_before(self._number, position)

    def export(
        self, begin: int, end: int, key: Array | None = None, value: Array | None = None
    ) -> None:
        """Read the tokens at positions begin to end - 1 back, as the codes have them.

        Args:
            begin: the first position.
            end: the position after the last.
            key: to write to, ``(layers, kv_heads, end - begin, head_dim)`` in float32.
            value: the same, of head_dim_v.
        """
        self._core.export(self._number, begin, end, key, value)

    def save(self, destination: Path | BinaryIO) -> None:
        """Write all tokens: the same bytes on every CPU, and for every page size.

        Args:
            destination: a path, or a file that is open for bytes.
        """
        if isinstance(destination, (str, os.PathLike)):
            with open(destination, "wb") as file:
                self._core.save(self._number, file.write)
        else:
            self._core.save(self._number, destination.write)

    def to_bytes(self) -> bytes:
        """Give what `save` writes."""
        file = io.BytesIO()
        self.save(file)
        return file.getvalue()

    def close(self) -> None:
        """Give the pages back, of which no fork has a share."""
        if self._open_number is not None:
            self._core.free(self._open_number)
            self._open_number = None

    def __del__(self) -> None:
        """Leave the number to the cache, which may be at work."""
        number = getattr(self, "_open_number", None)
        if number is not None:
            self._cache._dropped.append(number)


def _query_lens(query: Array, query_lens: abc.Sequence[int] | None) -> abc.Sequence[int] | None:
    """Rows of each sequence, where query says it itself."""
    shape = query.shape
    return [shape[2]] * shape[0] if query_lens is None and len(shape) == 4 else query_lens
