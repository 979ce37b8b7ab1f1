# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The functions of FlashAttention's package (arXiv 2307.08691), by their signatures.

Causal masks and windows are aligned at the last key, as there.
"""

from __future__ import annotations

import torch
from torch import Tensor

import intflash

from ._ops import attend
from ._ragged import ragged


def _refuse(reason: str) -> None:
    raise intflash.UnsupportedError(reason)


def _slopes(alibi_slopes: Tensor | None) -> Tensor | None:
    if alibi_slopes is None or alibi_slopes.dim() == 1:
        return alibi_slopes
    if alibi_slopes.shape[0] != 1:
        _refuse("alibi_slopes differ by sequence: one for each head is served")
    return alibi_slopes[0]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor | tuple[Tensor, Tensor, None]:
    """Attend as ``flash_attn.flash_attn_func``.

    Args:
        q: ``(batch, tokens, heads, head_dim)``.
        k: ``(batch, key_tokens, kv_heads, head_dim)``.
        v: the same.
        dropout_p: 0 alone is served.
        softmax_scale: of scores; by default ``1 / sqrt(head_dim)``.
        causal: whether query i sees keys up to ``key_tokens - tokens + i``.
        window_size: how many keys before and after its own a query sees; -1 is all.
        softcap: score = ``softcap * tanh(score / softcap)``; 0 is none.
        alibi_slopes: ``(heads,)``.
        deterministic: it always is.
        return_attn_probs: whether to return the log-sum-exp too, and None for probabilities.

    Returns:
        ``(batch, tokens, heads, head_dim)``, or a tuple of it, ``(batch, heads, tokens)`` and None.
    """
    if dropout_p != 0:
        _refuse(f"dropout_p is {dropout_p}: there is no dropout")
    out, lse = attend(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        None,
        "bottom_right" if causal else "",
        *window_size,
        softmax_scale,
        softcap,
        None,
        _slopes(alibi_slopes),
        True,
    )
    out = out.transpose(1, 2)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor, None]:
    """Attend as ``flash_attn.flash_attn_varlen_func``, over sequences one after another.

    Args:
        q: ``(tokens, heads, head_dim)``.
        k: ``(key_tokens, kv_heads, head_dim)``, or with block_table ``(pages, page_size, kv_heads,
            head_dim)``.
        v: the same.
        cu_seqlens_q: ``(sequences + 1,)``: where each sequence's queries begin.
        cu_seqlens_k: the same of keys.
        max_seqlen_q: not needed here.
        max_seqlen_k: not needed here.
        dropout_p: 0 alone is served.
        softmax_scale: see `flash_attn_func`; so are the other options.
        causal: see `flash_attn_func`.
        window_size: see `flash_attn_func`.
        softcap: see `flash_attn_func`.
        alibi_slopes: see `flash_attn_func`.
        deterministic: see `flash_attn_func`.
        return_attn_probs: see `flash_attn_func`; the log-sum-exp is ``(heads, tokens)``.
        block_table: ``(sequences, pages)``: each sequence's pages.
    """
    if dropout_p != 0:
        _refuse(f"dropout_p is {dropout_p}: there is no dropout")
    out, lse = ragged(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        None if block_table is None else cu_seqlens_k.diff(),
        block_table,
        causal,
        *window_size,
        softmax_scale,
        softcap,
        _slopes(alibi_slopes),
    )
    return (out, lse, None) if return_attn_probs else out


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend as ``flash_attn.flash_attn_with_kvcache``: new keys go to the cache first, in place.

    The cache is of floats, and quantized anew by each call: `intflash.Cache` keeps codes instead.

    Args:
        q: ``(batch, tokens, heads, head_dim)``.
        k_cache: ``(caches, capacity, kv_heads, head_dim)``, or with block_table ``(pages,
            page_size, kv_heads, head_dim)``.
        v_cache: the same.
        k: ``(batch, new_tokens, kv_heads, head_dim)``, to be written after cache_seqlens.
        v: the same.
        rotary_cos: not served.
        rotary_sin: not served.
        cache_seqlens: ``(batch,)``, or one number: tokens that each cache has; by default all.
        cache_batch_idx: ``(batch,)``: which of the caches is each sequence's.
        cache_leftpad: ``(batch,)``: tokens at the beginning that nobody sees.
        block_table: ``(batch, pages)``: each sequence's pages.
        softmax_scale: see `flash_attn_func`; so are causal, window_size, softcap and alibi_slopes.
        causal: see `flash_attn_func`.
        window_size: see `flash_attn_func`.
        softcap: see `flash_attn_func`.
        rotary_interleaved: not needed here.
        alibi_slopes: see `flash_attn_func`.
        num_splits: not needed here: how work is split changes no bit.
        return_softmax_lse: whether to return the log-sum-exp too, ``(batch, heads, tokens)``.
    """
    if rotary_cos is not None or rotary_sin is not None:
        _refuse("rotary_cos is given: rotate q and k before the call")
    batch = q.shape[0]
    caches = list(range(batch) if cache_batch_idx is None else cache_batch_idx.tolist())
    pads = [0] * batch if cache_leftpad is None else cache_leftpad.tolist()
    page_size = k_cache.shape[1]
    capacity = page_size if block_table is None else page_size * block_table.shape[1]
    if cache_seqlens is None:
        cache_seqlens = capacity
    lens = [cache_seqlens] * batch if isinstance(cache_seqlens, int) else cache_seqlens.tolist()
    new_tokens = 0 if k is None else k.shape[1]
    for pad, length in zip(pads, lens, strict=True):
        if not 0 <= pad <= length <= capacity - new_tokens:
            raise intflash.ArgumentError(
                f"cache_seqlens has {length}, behind cache_leftpad {pad}: with {new_tokens} new "
                f"tokens, a cache of {capacity} does not hold them"
            )
    outs, sums = [], []
    for i in range(batch):
        if block_table is None:
            first = caches[i] * page_size
            places = torch.arange(first, first + capacity)
        else:
            at = torch.arange(capacity)
            places = block_table[i].long()[at // page_size] * page_size + at % page_size
        for pool, new in ((k_cache, k), (v_cache, v)):
            if new is None:
                continue
            written = places[lens[i] : lens[i] + new.shape[1]]
            pool[written // page_size, written % page_size] = new[i].to(pool.dtype)
        end = lens[i] + new_tokens
        seen = places[pads[i] : end]
        of_key, of_value = (
            pool[caches[i], pads[i] : end]
            if block_table is None
            else pool[seen // page_size, seen % page_size]
            for pool in (k_cache, v_cache)
        )
        out, lse, _ = flash_attn_func(
            q[i : i + 1],
            of_key[None],
            of_value[None],
            0.0,
            softmax_scale,
            causal,
            window_size,
            softcap,
            alibi_slopes,
            return_attn_probs=True,
        )
        outs.append(out)
        sums.append(lse)
    out = torch.cat(outs)
    return (out, torch.cat(sums)) if return_softmax_lse else out
