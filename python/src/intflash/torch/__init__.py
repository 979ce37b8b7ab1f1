# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's attention in integers: operators that torch.compile takes, and names users know.

Nothing of PyTorch's changes by importing this.
"""

from ._activate import activate, active, deactivate, is_active
from ._reason import last_reason
from ._sdpa import sdpa

__all__ = ["activate", "active", "deactivate", "is_active", "last_reason", "sdpa"]
