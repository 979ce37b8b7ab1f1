# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""F.scaled_dot_product_attention, in integers where they serve the call."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from intflash import _core

from . import _ops
from ._reason import note, note_served

_LEAST_SCALE, _MOST_SCALE = 2.0**-126, 2.0**127
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def why_not(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    scale: float | None,
    enable_gqa: bool,
) -> str | None:
    """Say why PyTorch's own attention has to serve, or refuse, the call; None where it has not."""
    if dropout_p != 0:
        return f"dropout_p is {dropout_p}: there is no dropout"
    if scale is not None and not _LEAST_SCALE <= scale <= _MOST_SCALE:
        return f"scale is {scale}: it must be above 0, and a number of float32's"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on, and says in which dtype to compute"
    dtype, wants_grad = query.dtype, torch.is_grad_enabled()
    for tensor in (query, key, value) if mask is None else (query, key, value, mask):
        # Each look takes its time, where calls are short: which it was is asked afterwards.
        is_plain = tensor.is_cpu and not tensor.is_nested and tensor.layout is torch.strided
        if not is_plain or (wants_grad and tensor.requires_grad):
            return _why_not_tensors(query, key, value, mask)
    if dtype not in _DTYPES or key.dtype is not dtype or value.dtype is not dtype:
        return (
            f"dtypes are {dtype}, {key.dtype} and {value.dtype}: one of float32, float16 and "
            "bfloat16 is wanted"
        )
    return _why_not_shapes(query.shape, key.shape, value.shape, enable_gqa) or (
        None if mask is None else _why_not_mask(query, key, mask)
    )


def _why_not_tensors(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> str | None:
    for name, tensor in (("query", query), ("key", key), ("value", value), ("attn_mask", mask)):
        if tensor is None:
            continue
        if tensor.requires_grad and torch.is_grad_enabled():
            return f"{name} requires grad: there are no gradients"
        if not tensor.is_cpu:
            return f"{name} is on {tensor.device}: the CPU is served alone"
        if tensor.is_nested or tensor.layout is not torch.strided:
            return f"{name} is nested or not strided"
    return None


def _why_not_shapes(
    of_query: torch.Size, of_key: torch.Size, of_value: torch.Size, enable_gqa: bool
) -> str | None:
    rank = len(of_query)
    if rank not in (3, 4) or len(of_key) != rank or len(of_value) != rank:
        return f"query, key and value have {rank}, {len(of_key)} and {len(of_value)} dimensions"
    for dim in (of_query[-1], of_value[-1]):
        if dim % 8 != 0 or not 8 <= dim <= 1024:
            return f"a head dimension is {dim}: multiples of 8 from 8 to 1024 are served"
    if of_key[-1] != of_query[-1] or of_key[-2] != of_value[-2]:
        return "shapes of query, key and value do not belong together"
    if of_query[-3] == 0:
        return "there are no heads"
    if of_query[:-2] == of_key[:-2] == of_value[:-2]:
        return None
    for extents in zip(of_query[:-3], of_key[:-3], of_value[:-3], strict=True):
        if not _broadcast(*extents):
            return "batches of query, key and value do not broadcast"
    heads = of_query[-3], of_key[-3], of_value[-3]
    if enable_gqa:
        if heads[1] != heads[2] or heads[1] == 0 or heads[0] % heads[1] != 0:
            return f"query, key and value have {heads} heads"
    elif not _broadcast(*heads):
        return f"{heads} heads of query, key and value do not broadcast"
    return None


def _broadcast(*extents: int) -> bool:
    largest = max(extents)
    return all(extent in (1, largest) for extent in extents)


def _why_not_mask(query: Tensor, key: Tensor, mask: Tensor) -> str | None:
    if mask.dtype != torch.bool and mask.dtype not in _DTYPES:
        return f"attn_mask has dtype {mask.dtype}"
    scores = (*query.shape[:-1], key.shape[-2])
    extents = mask.shape
    if not 2 <= len(extents) <= len(scores):
        return f"attn_mask has {len(extents)} dimensions"
    for extent, wanted in zip(reversed(extents), reversed(scores), strict=False):
        if extent not in (1, wanted):
            return f"attn_mask has shape {tuple(extents)}, and scores {scores}"
    return None


def expand(
    query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Give all the same batch, and without grouped heads the same heads, by strides of 0."""
    if query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        return query, key, value
    tensors = query, key, value
    batch = [
        max(extents) for extents in zip(*(tensor.shape[:-3] for tensor in tensors), strict=True)
    ]
    most_heads = max(tensor.shape[-3] for tensor in tensors)
    expanded = [
        tensor.expand(*batch, tensor.shape[-3] if enable_gqa else most_heads, *tensor.shape[-2:])
        for tensor in tensors
    ]
    return expanded[0], expanded[1], expanded[2]


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend as ``torch.nn.functional.scaled_dot_product_attention``, in integers.

    What integers do not serve goes to the original, which also raises what there is to raise:
    inputs that require grad under an enabled grad mode, dropout, float64, nested tensors, other
    devices, head dimensions that are no multiple of 8 up to 1024, NaN and infinity, and calls under
    autocast. Then `last_reason` says why.

    Args:
        query: ``(batch, query_heads, query_tokens, head_dim)``, or without batch, in float32,
            float16 or bfloat16.
        key: ``(batch, kv_heads, key_tokens, head_dim)``.
        value: ``(batch, kv_heads, key_tokens, value_dim)``.
        attn_mask: of booleans, of which True keeps a key, or of numbers that are added to scores,
            of which the lowest of their dtype hides a key, as -inf does. Broadcasts to
            ``(batch, query_heads, query_tokens, key_tokens)``.
        dropout_p: 0 alone is served.
        is_causal: whether query i sees keys up to i (aligned at the top left).
        scale: of scores; by default ``1 / sqrt(head_dim)``.
        enable_gqa: whether kv_heads may be a divisor of query_heads.

    Returns:
        ``(batch, query_heads, query_tokens, value_dim)`` in query's dtype. A row that sees no key
        is 0.
    """
    if dropout_p == 0 and not torch.compiler.is_compiling():
        # What is as it mostly is, and nothing but our kernel would see: past the dispatcher.
        out = _core.sdpa(query, key, value, attn_mask, is_causal, scale, enable_gqa)
        if out is not None:
            note_served()
            return out
    reason = why_not(query, key, value, attn_mask, dropout_p, scale, enable_gqa)
    if reason is not None:
        note(reason)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    query, key, value = expand(query, key, value, enable_gqa)
    return _ops.sdpa(query, key, value, attn_mask, is_causal, scale)
