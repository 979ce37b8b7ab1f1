# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention in integers for the models of transformers.

Nothing of transformers changes by importing this: `register` adds a name.
"""

from ._cache import IntflashCache
from ._calibrate import calibrate
from ._register import NAME, register

__all__ = ["NAME", "IntflashCache", "calibrate", "register"]
