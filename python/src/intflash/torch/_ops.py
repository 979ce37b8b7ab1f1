# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Operators of the dispatcher's, which torch.compile and torch.export take as a whole.

torch.library.custom_op would take three times as long a call: it wraps the function for autograd
and for mutation, of which there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import intflash

from ._reason import note

# What only the elements tell: such calls are handed over as well.
NOT_SERVED = (intflash.NonfiniteInputError, intflash.ScoreOverflowError)


def rows(tensor: Tensor) -> Tensor:
    """Copy what has elements of a row that do not follow one another."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def mask_rows(mask: Tensor | None, kv_len: int) -> Tensor | None:
    """Give each key an element, by which masks are read."""
    if mask is None or (mask.stride(-1) == 1 and mask.shape[-1] == kv_len):
        return mask
    return mask.expand(*mask.shape[:-1], kv_len).contiguous()


def _empty_out(query: Tensor, value: Tensor) -> Tensor:
    """Make an output with query's strides where it has query's shape, as PyTorch does."""
    if query.shape[-1] == value.shape[-1] and query.stride(-1) == 1:
        return torch.empty_like(query)
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def compute(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: str,
    window_left: int,
    window_right: int,
    scale: float | None,
    cap: float,
    sinks: Tensor | None,
    alibi: Tensor | None,
    rotate: bool,
) -> tuple[Tensor, Tensor]:
    out = _empty_out(query, value)
    _, lse = intflash.attend(
        rows(query),
        rows(key),
        rows(value),
        causal=causal or False,
        window=None if window_left == window_right == -1 else (window_left, window_right),
        scale=scale,
        cap=cap,
        mask=mask_rows(mask, key.shape[-2]),
        sinks=None if sinks is None else sinks.tolist(),
        alibi=None if alibi is None else alibi.tolist(),
        rotate=rotate,
        lse=True,
        out=out,
    )
    return out, lse


def _attend_fake(
    query: Tensor, key: Tensor, value: Tensor, *options: object
) -> tuple[Tensor, Tensor]:
    return _empty_out(query, value), query.new_empty(query.shape[:-1], dtype=torch.float32)


def _sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    out = _empty_out(query, value)
    try:
        intflash.attend(
            rows(query),
            rows(key),
            rows(value),
            causal="top_left" if is_causal else False,
            scale=scale,
            mask=mask_rows(mask, key.shape[-2]),
            out=out,
        )
        note(None)
    except NOT_SERVED as error:
        note(str(error))
        out.copy_(
            F.scaled_dot_product_attention(
                query, key, value, mask, 0.0, is_causal, scale=scale, enable_gqa=True
            )
        )
    return out


def _sdpa_fake(query: Tensor, key: Tensor, value: Tensor, *options: object) -> Tensor:
    return _empty_out(query, value)


def _below_autograd(name: str, *arguments: object) -> object:
    """Refuse what wants a gradient, which compiled code would lose in silence."""
    wants_grad = torch.is_grad_enabled()
    for argument in arguments:
        if isinstance(argument, Tensor) and wants_grad and argument.requires_grad:
            raise intflash.UnsupportedError(
                f"{name}: an input requires grad, and there are no gradients: call it under "
                "torch.no_grad()"
            )
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(torch.ops.intflash, name.partition("::")[2]).default(*arguments)


def refuse_gradients(name: str) -> None:
    """Have the operator refuse inputs whose gradient is wanted."""
    torch.library.impl(name, "Autograd", partial(_below_autograd, name))


def define(signature: str, function: Callable, fake: Callable) -> None:
    name = "intflash::" + signature.partition("(")[0]
    torch.library.define(
        name, signature[signature.index("(") :], tags=(torch.Tag.pt2_compliant_tag,)
    )
    torch.library.impl(name, "CPU", function)
    torch.library.register_fake(name, fake)


define(
    "sdpa(Tensor query, Tensor key, Tensor value, Tensor? mask, bool is_causal, float? scale)"
    " -> Tensor",
    _sdpa,
    _sdpa_fake,
)
define(
    "attend(Tensor query, Tensor key, Tensor value, Tensor? mask, str causal, SymInt window_left,"
    " SymInt window_right, float? scale, float cap, Tensor? sinks, Tensor? alibi, bool rotate)"
    " -> (Tensor, Tensor)",
    compute,
    _attend_fake,
)

refuse_gradients("intflash::attend")  # sdpa looks itself, which takes less time

sdpa = torch.ops.intflash.sdpa.default
attend = torch.ops.intflash.attend.default
