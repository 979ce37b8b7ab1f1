# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The functions of SageAttention's package (arXiv 2410.02367), by their signatures."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

import intflash

from ._ops import attend
from ._ragged import ragged

# What steers rounding there. Here rotation does smoothing's work.
_ROUNDING = {"smooth_k", "smooth_v", "qk_quant_gran", "pv_accum_dtype"}


def sageattn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensor_layout: Literal["HND", "NHD"] = "HND",
    is_causal: bool = False,
    sm_scale: float | None = None,
    return_lse: bool = False,
    **options: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend as ``sageattention.sageattn``.

    Args:
        q: ``(batch, heads, tokens, head_dim)``, or with NHD ``(batch, tokens, heads, head_dim)``.
        k: the same of kv_heads.
        v: the same.
        tensor_layout: "HND" or "NHD".
        is_causal: whether query i sees keys up to i, with as many queries as keys.
        sm_scale: of scores; by default ``1 / sqrt(head_dim)``.
        return_lse: whether to return the log-sum-exp too, ``(batch, heads, tokens)``.
        options: smooth_k, smooth_v, qk_quant_gran and pv_accum_dtype change nothing; nor do others
            that are None, 0 or False.

    Raises:
        ArgumentError: another option, which would be lost.
    """
    unknown = sorted(name for name in options.keys() - _ROUNDING if options[name])
    if unknown:
        raise intflash.ArgumentError(f"{unknown[0]}: sageattn here has no such option")
    if tensor_layout not in ("HND", "NHD"):
        raise intflash.ArgumentError(f"tensor_layout is {tensor_layout!r}: 'HND' or 'NHD'")
    if tensor_layout == "NHD":
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if is_causal and q.shape[2] != k.shape[2]:
        raise intflash.ShapeError(
            f"is_causal wants as many queries as keys: there are {q.shape[2]} and {k.shape[2]}"
        )
    causal = "bottom_right" if is_causal else ""
    out, lse = attend(q, k, v, None, causal, -1, -1, sm_scale, 0.0, None, None, True)
    if tensor_layout == "NHD":
        out = out.transpose(1, 2)
    return (out, lse) if return_lse else out


def sageattn_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    is_causal: bool = False,
    sm_scale: float | None = None,
    smooth_k: bool = True,
) -> Tensor:
    """Attend as ``sageattention.sageattn_varlen``, over sequences one after another.

    Args:
        q: ``(tokens, heads, head_dim)``.
        k: ``(tokens, kv_heads, head_dim)``.
        v: the same.
        cu_seqlens_q: ``(sequences + 1,)``: where each sequence's queries begin.
        cu_seqlens_k: the same of keys.
        max_seqlen_q: not needed here.
        max_seqlen_k: not needed here.
        is_causal: aligned at each sequence's end.
        sm_scale: of scores; by default ``1 / sqrt(head_dim)``.
        smooth_k: changes nothing: rotation does its work.
    """
    out, _ = ragged(
        q, k, v, cu_seqlens_q, cu_seqlens_k, None, None, is_causal, -1, -1, sm_scale, 0.0, None
    )
    return out
