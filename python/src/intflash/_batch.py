# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of batches over caches."""

from __future__ import annotations

from collections import abc
from typing import TYPE_CHECKING, Any, Literal

from . import _core
from ._attend import Array, Causal, Mode, Window
from ._errors import ArgumentError
from ._pages import Pages
from ._rope import Rope

if TYPE_CHECKING:
    from ._cache import Cache, Sequence


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
        mode: see `attend`; by default ``"int8_qk"`` over a cache of codec k8v16, which takes no
            other but ``"exact"`` and ``"intfa"``, and else ``"int8"``.

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
        mode: Mode | None = None,
    ) -> None:
        of_pages = isinstance(cache, Pages)
        if first_positions is not None and not of_pages:
            raise ArgumentError("first_positions: a Cache knows those of its sequences")
        if mode is None:
            mode = "int8_qk" if cache.info().codec == "k8v16" else "int8"
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
        trees: abc.Sequence[Array | None] | None = None,
        sinks: abc.Sequence[float] | Array | None = None,
        alibi: abc.Sequence[float] | Array | None = None,
        rope: Rope | None = None,
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
            trees: of each sequence None, or an array of booleans, ``(query_len, keys)``; see tree
                of `attend`.
            sinks: see `attend`.
            alibi: see `attend`.
            rope: by which query is turned, at its rows' positions.
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
        result = self._core.run(query, layer, masks, trees, sinks, alibi, rope, lse, out)
        if len(query.shape) == 3 or out is not None:
            return result
        rows, sums = result if lse else (result, None)
        requests, heads, tokens = query.shape[:3]
        dim = rows.shape[-1]
        rows = rows.reshape((requests, tokens, heads, dim)).swapaxes(1, 2)
        if not lse:
            return rows
        return rows, sums.reshape((heads, requests, tokens)).swapaxes(0, 1)
