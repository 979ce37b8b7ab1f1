# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's attention in integers: operators that torch.compile takes, and names users know.

Nothing of PyTorch's changes by importing this.
"""

from ._activate import activate, active, deactivate, is_active
from ._flash_attn import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache
from ._reason import last_reason
from ._sage import sageattn, sageattn_varlen
from ._sdpa import sdpa

__all__ = [
    "activate",
    "active",
    "deactivate",
    "flash_attn_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "is_active",
    "last_reason",
    "sageattn",
    "sageattn_varlen",
    "sdpa",
]
