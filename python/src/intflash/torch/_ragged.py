# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of sequences that lie one after another, of any lengths."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import intflash

from ._ops import define, refuse_gradients, rows


def _integers(name: str, tensor: Tensor) -> list:
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise intflash.ArgumentError(f"{name}: {tensor.dtype} are no numbers of rows")
    return tensor.tolist()


def _lens(key_lens: Tensor | None, room: list[int]) -> list[int]:
    """Read how many keys each sequence has; without a word, as many as there is room for."""
    if key_lens is None:
        return room
    lens = _integers("key lengths", key_lens)
    if len(lens) != len(room) or any(not 0 <= a <= b for a, b in zip(lens, room, strict=True)):
        raise intflash.ShapeError(f"key lengths are {lens}: there is room for {room}")
    return lens


def _tables(pages: Tensor, num_pages: int, page_size: int, lens: list[int]) -> list[list[int]]:
    """Read the pages that hold each sequence's keys."""
    tables = [
        table[: -(-length // page_size)]
        for table, length in zip(_integers("pages", pages), lens, strict=True)
    ]
    for table in tables:
        if table and not 0 <= min(table) <= max(table) < num_pages:
            raise intflash.ArgumentError(f"pages are {table}: there are {num_pages} of them")
    return tables


def _begins(name: str, begins: Tensor | None, num_rows: int) -> list[int]:
    """Read where sequences begin, and the last one ends."""
    read = [] if begins is None else _integers(name, begins)
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
    if pages is None:
        begins = _begins("key", key_begins, key.shape[0])
        lens = _lens(
            key_lens, [end - begin for begin, end in zip(begins, begins[1:], strict=False)]
        )
        for begin, length in zip(begins, lens, strict=False):
            part = slice(begin, begin + length)
            yield key[part].transpose(0, 1), value[part].transpose(0, 1)
        return
    num_pages, page_size = key.shape[:2]
    if key_lens is None or pages.dim() != 2 or value.shape[:2] != key.shape[:2]:
        raise intflash.ShapeError(
            "pages want the key lengths, a table of two dimensions, and as many keys as values"
        )
    lens = _lens(key_lens, [pages.shape[1] * page_size] * pages.shape[0])
    for table, length in zip(_tables(pages, num_pages, page_size, lens), lens, strict=True):
        of_key, of_value = (pool[table].flatten(0, 1)[:length] for pool in (key, value))
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
