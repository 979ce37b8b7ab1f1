# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The function that attention layers call."""

from __future__ import annotations

import torch
from torch import Tensor

import intflash

from ..torch import _ops
from ._cache import Handle

# By which servers say where keys are that they did not hand over.
_PAGES = ("block_table", "cache", "k_cache", "v_cache", "read_index", "write_index")
_OTHERS = ("sinks", "block_indices")  # which would be lost


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Attend, as transformers.AttentionInterface has it.

    Args:
        module: the layer, whose is_causal counts where no other is given.
        query: ``(batch, query_heads, query_tokens, head_dim)``.
        key: ``(batch, kv_heads, key_tokens, head_dim)``.
        value: ``(batch, kv_heads, key_tokens, value_dim)``.
        attention_mask: of booleans, or added to scores; None is causal where the layer is.
        scaling: of scores; by default ``1 / sqrt(head_dim)``.
        dropout: 0 alone is served.
        is_causal: whether no mask is a causal one.
        sliding_window: how many keys a query sees with its own, where there is no mask, which
            would say it.
        softcap: score = ``softcap * tanh(score / softcap)``, before masks.
        s_aux: ``(query_heads,)``: sinks, a logit for each head.
        position_bias: ``(batch or 1, query_heads, query_tokens, key_tokens)``: added to scores.
        options: what a model says beside this.

    Returns:
        ``(batch, query_tokens, query_heads, value_dim)``, and no weights.

    Raises:
        UnsupportedError: what is not served.
    """
    _want_served(query, key, value, attention_mask, dropout, s_aux, position_bias, options)
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    causal = "bottom_right" if is_causal and attention_mask is None else ""
    window_left = sliding_window - 1 if causal and sliding_window is not None else -1
    mask = _biased(attention_mask, position_bias)
    if isinstance(key, Handle):
        how = (bool(causal), window_left, scaling, softcap or 0.0, s_aux)
        return key.layer.attend(query, mask, *how), None
    out, _ = _ops.attend(
        query,
        key,
        value,
        mask,
        causal,
        window_left,
        0 if window_left >= 0 else -1,
        scaling,
        softcap or 0.0,
        s_aux,
        None,
        True,
    )
    return out.transpose(1, 2).contiguous(), None


def _biased(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    if mask is None or bias is None:
        return bias if mask is None else mask
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


def _want_served(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    s_aux: Tensor | None,
    position_bias: Tensor | None,
    options: dict[str, object],
) -> None:
    if dropout > 0:
        _refuse(f"dropout is {dropout}: there is none; call model.eval()")
    if options.get("output_attentions"):
        _refuse("output_attentions is True: no weights exist; use attn_implementation='eager'")
    for name in _PAGES:
        if options.get(name) is not None:
            _refuse(f"{name} is given: keys in pages of transformers' own are not read")
    for name in _OTHERS:
        if options.get(name) is not None:
            _refuse(f"{name} is given: it is not served")
    if attention_mask is None and options.get("cu_seq_lens_q") is not None:
        _refuse("cu_seq_lens_q is given without a mask: pack sequences by position_ids alone")
    if attention_mask is not None and attention_mask.dim() != 4:
        _refuse(f"attention_mask has {attention_mask.dim()} dimensions: 4 are wanted")
    tensors = (query, key, value, attention_mask, s_aux, position_bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        _refuse("an input requires grad: there are no gradients; call it under torch.no_grad()")
    if query.device.type != "cpu":
        _refuse(f"query is on {query.device}: the CPU is served alone")


def _refuse(reason: str) -> None:
    raise intflash.UnsupportedError(f"int8_attention: {reason}")
