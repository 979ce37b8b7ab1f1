# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of sequences that lie one after another, of any lengths."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import intflash

from ._ops import define, refuse_gradients, rows


def _begins(name: str, begins: Tensor | None, num_rows: int) -> list[int]:
    """Read where sequences begin, and the last one ends."""
    read = [] if begins is None else begins.tolist()
    if not read or read[0] != 0 or read[-1] > num_rows or sorted(read) != read:
        raise intflash.ShapeError(
            f"{name}: sequences begin at {read}: at 0, in order, within {num_rows} rows is wanted"
        )
    return read


def _parts(
    key: Tensor,
    value: Tensor,
    key_begins: Tensor | None,
    key_lens: Tensor | None,
    pages: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give each sequence's keys and values, (heads, tokens, dim)."""
    begins = [] if pages is not None else _begins("key", key_begins, key.shape[0])
    lens = None if key_lens is None else key_lens.tolist()
    for i in range(len(begins) - 1 if pages is None else pages.shape[0]):
        if pages is None:
            part = slice(begins[i], begins[i + 1] if lens is None else begins[i] + lens[i])
            of_key, of_value = key[part], value[part]
        else:
            used = pages[i, : -(-lens[i] // key.shape[1])]
            of_key, of_value = (pool[used].flatten(0, 1)[: lens[i]] for pool in (key, value))
        yield of_key.transpose(0, 1), of_value.transpose(0, 1)


def _ragged(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_begins: Tensor,
    key_begins: Tensor | None,
    key_lens: Tensor | None,
    pages: Tensor | None,
    causal: bool,
    window_left: int,
    window_right: int,
    scale: float | None,
    cap: float,
    alibi: Tensor | None,
) -> tuple[Tensor, Tensor]:
    out, sums = _ragged_fake(query, key, value)
    begins = _begins("query", query_begins, query.shape[0])
    if begins[-1] != query.shape[0]:
        raise intflash.ShapeError(f"query has {query.shape[0]} rows, of sequences of {begins[-1]}")
    slopes = None if alibi is None else alibi.tolist()
    query = rows(query)
    parts = list(_parts(key, value, key_begins, key_lens, pages))
    if len(parts) != len(begins) - 1:
        raise intflash.ShapeError(
            f"there are {len(begins) - 1} sequences of queries, and {len(parts)} of keys"
        )
    for i, (of_key, of_value) in enumerate(parts):
        part = slice(begins[i], begins[i + 1])
        _, lse = intflash.attend(
            query[part].transpose(0, 1),
            rows(of_key),
            rows(of_value),
            causal=causal,
            window=None if window_left == window_right == -1 else (window_left, window_right),
            scale=scale,
            cap=cap,
            alibi=slopes,
            lse=True,
            out=out[part].transpose(0, 1),
        )
        sums[:, part] = lse
    return out, sums


def _ragged_fake(
    query: Tensor, key: Tensor, value: Tensor, *options: object
) -> tuple[Tensor, Tensor]:
    tokens, heads, _ = query.shape
    out = query.new_empty(tokens, heads, value.shape[-1])
    return out, query.new_empty((heads, tokens), dtype=torch.float32)


define(
    "ragged(Tensor query, Tensor key, Tensor value, Tensor query_begins, Tensor? key_begins,"
    " Tensor? key_lens, Tensor? pages, bool causal, SymInt window_left, SymInt window_right,"
    " float? scale, float cap, Tensor? alibi) -> (Tensor, Tensor)",
    _ragged,
    _ragged_fake,
)

refuse_gradients("intflash::ragged")

# (rows, heads, dim) and (heads, rows) of sequences whose rows begin at query_begins, and whose keys
# at key_begins, or are in pages, (pages, tokens, heads, dim). key_lens: how many of them there are.
ragged = torch.ops.intflash.ragged.default
