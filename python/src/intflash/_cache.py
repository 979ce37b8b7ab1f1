# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The KV cache of INT8 pages, its pages in memory of others, and attention of batches over it."""

from __future__ import annotations

import io
import os
from collections import abc
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Literal

from . import _core
from ._attend import Array, Causal, Mode, Window
from ._errors import ArgumentError, BusyError

Path = str | os.PathLike[str]


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


class Cache:
    """Keys and values of all layers of a model, as INT8 codes in pages.

    A token of one kv head takes ``head_dim + head_dim_v + 12`` bytes in each layer: half of
    float16. Its codes depend on it alone, so that results do not depend, to the bit, on how tokens
    were divided between calls, on the batch, on forks, or on the number of threads.

    Calls that change a cache exclude all others: on a cache that another thread is using they raise
    BusyError, and change nothing. Readers run beside each other.

    Args:
        layers: of the model.
        kv_heads: of each layer.
        head_dim: of keys, a multiple of 8, from 8 to 1024.
        pages: how many there are, each for page_size tokens of one sequence in all layers.
        head_dim_v: of values; by default head_dim.
        page_size: 64, 128 or 256 tokens.
        codec: ``"int8"``, or ``"int8_wide"``, which keeps a second digit of each key for models
            whose scores are large, in ``head_dim + 4`` bytes more, or ``"k8v4"``, which keeps
            values in four bits, in ``head_dim_v / 2`` bytes less (docs/codecs.md).
        rotate: whether keys and values are turned by a Hadamard matrix before they are quantized.
        key_center: ``(layers, kv_heads, head_dim)`` in float32, taken off keys before they are
            quantized.
        value_center: ``(layers, kv_heads, head_dim_v)``, the same of values.
        threads: that attend; as in `attend`.

    Raises:
        ArgumentError: a value that breaks a rule.
        OutOfMemoryError: more pages than there is memory for.
    """

    def __init__(
        self,
        *,
        layers: int = 1,
        kv_heads: int,
        head_dim: int,
        pages: int,
        head_dim_v: int | None = None,
        page_size: int = 64,
        codec: Literal["int8", "int8_wide", "k8v4"] = "int8",
        rotate: bool = True,
        key_center: Array | None = None,
        value_center: Array | None = None,
        threads: int | None = None,
    ) -> None:
        self._dropped: list[int] = []
        self._core = _core.Cache(
            kv_heads,
            head_dim,
            head_dim_v,
            pages,
            page_size,
            layers,
            codec,
            rotate,
            key_center,
            value_center,
            threads,
            None,
        )

    def close(self) -> None:
        """Give the memory back. Every later call is an ArgumentError.

        Raises:
            BusyError: a call is using the cache.
        """
        self._core.close()

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
    ) -> None:
        """Store new tokens of some sequences in one layer.

        Layer 0 comes first, and takes the pages for all layers; the others follow with the same
        tokens.

        Args:
            sequences: each named once.
            key: ``(sequences, kv_heads, tokens, head_dim)``, or the tokens of one sequence after
                those of another as ``(tokens, kv_heads, head_dim)``; float32, float16 or bfloat16.
            value: the same, of head_dim_v.
            layer: of the cache.
            lengths: tokens of each sequence, where key has 3 dimensions, there are several
                sequences, and not just one token for each.

        Raises:
            PoolExhaustedError: too few free pages; nothing is appended, to no sequence.
            NonfiniteInputError: NaN or infinity; the same.
            BusyError: another thread is using the cache; the same.
        """
        self._collect()
        self._core.append(self._numbers(sequences), key, value, lengths, layer)

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
        sinks: abc.Sequence[float] | Array | None = None,
        alibi: abc.Sequence[float] | Array | None = None,
        score_digits: Literal[1, 2] | None = None,
        mode: Mode = "int8",
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
            query, layer=layer, masks=masks, sinks=sinks, alibi=alibi, lse=lse, out=out
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


class Pages:
    """Keys and values in pages of the caller's memory, by page tables that the caller keeps.

    For servers that have a pool of blocks. A page holds page_size tokens of all kv heads, in
    ``page_size * kv_heads * (head_dim + head_dim_v + 12)`` bytes, with codec ``"int8_wide"`` in
    ``page_size * kv_heads * (head_dim + 4)`` more, and with ``"k8v4"`` in
    ``page_size * kv_heads * head_dim_v / 2`` less, head_dim_v padded to 16; page p of a layer
    begins at p times that. Which pages are a request's is said in each `Batch`. Pages may be copied
    and moved as bytes; what else a `Cache` promises holds here as well.

    Args:
        memory: of each layer a contiguous array that can be written to, on the CPU, of any type,
            and aligned at 64 bytes. It is not cleared.
        kv_heads: as in `Cache`; so are head_dim, head_dim_v, page_size, codec, rotate, key_center,
            value_center and threads.
        head_dim: see `Cache`.
        pages: how many there are in each layer.
        head_dim_v: see `Cache`.
        page_size: see `Cache`.
        codec: see `Cache`.
        rotate: see `Cache`.
        key_center: see `Cache`.
        value_center: see `Cache`.
        threads: see `Cache`.

    Raises:
        ArgumentError: a value that breaks a rule, or memory that is too small or not aligned.
    """

    def __init__(
        self,
        memory: abc.Sequence[Any],
        *,
        kv_heads: int,
        head_dim: int,
        pages: int,
        head_dim_v: int | None = None,
        page_size: int = 64,
        codec: Literal["int8", "int8_wide", "k8v4"] = "int8",
        rotate: bool = True,
        key_center: Array | None = None,
        value_center: Array | None = None,
        threads: int | None = None,
    ) -> None:
        if len(memory) == 0:
            raise ArgumentError("memory is empty: an array for each layer is wanted")
        self._core = _core.Cache(
            kv_heads,
            head_dim,
            head_dim_v,
            pages,
            page_size,
            len(memory),
            codec,
            rotate,
            key_center,
            value_center,
            threads,
            memory,
        )

    def close(self) -> None:
        """Let go of the memory. Every later call is an ArgumentError.

        Raises:
            BusyError: a call is using the pages.
        """
        self._core.close()

    def info(self) -> CacheInfo:
        """Tell their shape. No sequence holds any of them: all are free."""
        return CacheInfo(*self._core.info())

    def append(self, key: Array, value: Array, slots: Array, *, layer: int = 0) -> None:
        """Store tokens in one layer.

        Args:
            key: ``(tokens, kv_heads, head_dim)``; float32, float16 or bfloat16.
            value: the same, of head_dim_v.
            slots: where each token goes, ``page * page_size + its place in the page``, or -1 for
                nowhere: ``(tokens,)`` in int64. None twice. What goes to a place that is a multiple
                of 64 makes that and the 63 after it empty: tokens of a page come in order.
            layer: of the pages.

        Raises:
            ArgumentError: a slot that is not there, or named twice; nothing is stored.
            NonfiniteInputError: NaN or infinity; the same.
            BusyError: another thread is using the pages; the same.
        """
        self._core.store(key, value, slots, layer)


class Batch:
    """Attention of some sequences, planned once a step and run for each layer.

    Args:
        cache: that has the tokens, a `Cache` or `Pages`.
        sequences: that are attended, in the order of query's rows. Of `Pages`, the numbers of each
            one's pages, in order; there may be more of them than kv_lens need.
        query_lens: query rows of each, the last of which stands at its last token; by default 1.
        kv_lens: tokens of each; by default those that it has now, which `Pages` do not know. A step
            that plans before it appends says how many there will be.
        first_positions: of the first token in each one's first page, a multiple of page_size, where
            the pages before are gone, as a window lets them; by default 0. Of `Pages` alone.
        causal: as in `attend`, here True by default; so are window, prefix, scale and cap.
        window: see `attend`.
        prefix: see `attend`.
        scale: see `attend`.
        cap: see `attend`.
        score_digits: see `attend`; 2 wants a cache of codec int8_wide.
        mode: see `attend`.

    Raises:
        ArgumentError: a value that breaks a rule.
    """

    def __init__(
        self,
        cache: Cache | Pages,
        sequences: abc.Sequence[Sequence] | abc.Sequence[abc.Sequence[int]],
        query_lens: abc.Sequence[int] | None = None,
        kv_lens: abc.Sequence[int] | None = None,
        *,
        first_positions: abc.Sequence[int] | None = None,
        causal: Causal = True,
        window: Window | None = None,
        prefix: int | None = None,
        scale: float | None = None,
        cap: float | None = None,
        score_digits: Literal[1, 2] | None = None,
        mode: Mode = "int8",
    ) -> None:
        of_pages = isinstance(cache, Pages)
        if first_positions is not None and not of_pages:
            raise ArgumentError("first_positions: a Cache knows those of its sequences")
        self._cache = cache
        # Their numbers are not given to others meanwhile.
        self._sequences = () if of_pages else tuple(sequences)
        self._core = _core.Batch(
            cache._core,
            [] if of_pages else cache._numbers(self._sequences),
            sequences if of_pages else None,
            query_lens,
            kv_lens,
            first_positions,
            causal,
            window,
            prefix,
            scale,
            cap,
            score_digits,
            mode,
        )

    @property
    def query_lens(self) -> list[int]:
        """Query rows of each sequence."""
        return self._core.query_lens

    @property
    def kv_lens(self) -> list[int]:
        """Tokens of each sequence."""
        return self._core.kv_lens

    def run(
        self,
        query: Array,
        *,
        layer: int = 0,
        masks: abc.Sequence[Array | None] | None = None,
        sinks: abc.Sequence[float] | Array | None = None,
        alibi: abc.Sequence[float] | Array | None = None,
        lse: bool = False,
        out: Array | None = None,
    ) -> Any:
        """Attend in one layer.

        Args:
            query: ``(sequences, query_heads, tokens, head_dim)``, or the rows of one sequence after
                those of another as ``(rows, query_heads, head_dim)``.
            layer: of the cache.
            masks: of each sequence None, or an array of booleans or numbers that broadcasts to
                ``(query_heads, query_len, kv_len)``; see mask of `attend`.
            sinks: see `attend`.
            alibi: see `attend`.
            lse: whether to return the log-sum-exp too.
            out: ``(rows, query_heads, head_dim_v)``, to write to.

        Returns:
            ``(rows, query_heads, head_dim_v)`` for a query of 3 dimensions and ``(sequences,
            query_heads, tokens, head_dim_v)`` for one of 4; with lse a pair of it and
            ``(query_heads, rows)`` or ``(sequences, query_heads, tokens)``.

        Raises:
            ShapeError: rows, heads or dimensions that are not the batch's.
            ArgumentError: a sequence that has not the planned tokens in this layer.
            BusyError: another thread is changing the cache.
        """
        if self._sequences:
            self._cache._numbers(self._sequences)  # all of them are open
        result = self._core.run(query, layer, masks, sinks, alibi, lse, out)
        if len(query.shape) == 3 or out is not None:
            return result
        rows, sums = result if lse else (result, None)
        requests, heads, tokens = query.shape[:3]
        dim = rows.shape[-1]
        rows = rows.reshape((requests, tokens, heads, dim)).swapaxes(1, 2)
        if not lse:
            return rows
        return rows, sums.reshape((heads, requests, tokens)).swapaxes(0, 1)


def _query_lens(query: Array, query_lens: abc.Sequence[int] | None) -> abc.Sequence[int] | None:
    """Rows of each sequence, where query says it itself."""
    shape = query.shape
    return [shape[2]] * shape[0] if query_lens is None and len(shape) == 4 else query_lens
