# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Which keys queries see, as models ask for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, sdpa_mask


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **options: object,
) -> Tensor | None:
    """Draw the mask, True where a key is seen; None where it is the causal one.

    None then means: aligned at the last key. All else that a model asks for is drawn, so that
    nothing it says can be lost on the way.
    """
    is_causal = allow_is_causal_skip and _is_causal(
        q_length, kv_length, q_offset, kv_offset, attention_mask, local_size
    )
    if is_causal:
        return None
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=False,
        **options,
    )


def _is_causal(
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor,
    kv_offset: int,
    attention_mask: Tensor | None,
    local_size: int | None,
) -> bool:
    is_tensor = isinstance(q_offset, Tensor) or attention_mask is not None
    if is_tensor and torch.compiler.is_compiling():
        return False  # elements are not known
    if q_offset + q_length != kv_offset + kv_length:
        return False  # keys of a static cache that are yet to come
    # What is local begins at the first key, of which none has gone.
    if local_size is not None and kv_offset + kv_length > local_size:
        return False
    return attention_mask is None or bool(attention_mask.all())
