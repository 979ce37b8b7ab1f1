# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The name by which models ask for attention in integers."""

from __future__ import annotations

from transformers import AttentionInterface, AttentionMaskInterface

from ._attention import attention
from ._mask import mask

# A name with "flash" in it would be taken for one of FlashAttention's packages.
NAME = "int8_attention"


def register() -> str:
    """Make ``attn_implementation="int8_attention"`` known.

    Models take it in ``from_pretrained``, or by ``model.set_attn_implementation``. It serves
    grouped heads, sliding windows, soft caps, sinks, padding on either side, packed sequences,
    and static and dynamic caches; a call that it does not serve raises an
    ``intflash.UnsupportedError`` that says why. Rotation is on, and no mean is taken off: a prompt
    in chunks has the bits of the whole.

    Returns:
        The name.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
    return NAME
