# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of vLLM on CPUs, over INT8 pages in vLLM's own pool of blocks.

vLLM calls `register` in each of its processes, as an entry point of ``vllm.general_plugins``.
Models that are served with ``--kv-cache-dtype int8_per_token_head``, or with ``INTFLASH_VLLM=1`` in
the environment, attend here; all others as if this were not installed.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["register"]

_BACKEND = "intflash.vllm._backend.Backend"


def register() -> None:
    """Let vLLM's platform for CPUs choose this backend where it is asked for.

    The platform takes one backend for every model and type of cache, so its choice is wrapped.
    Elsewhere than on a CPU, and the second time, nothing happens.
    """
    from vllm.platforms import current_platform

    platform = type(current_platform)
    choose = platform.get_attn_backend_cls
    if not current_platform.is_cpu() or getattr(choose, "chooses_intflash", False):
        return

    def get_attn_backend_cls(
        cls: type, selected_backend: Any, attn_selector_config: Any, num_heads: int | None = None
    ) -> str:
        if _is_wanted(attn_selector_config):
            return _BACKEND
        return choose(selected_backend, attn_selector_config, num_heads)

    get_attn_backend_cls.chooses_intflash = True
    platform.get_attn_backend_cls = classmethod(get_attn_backend_cls)


def _is_wanted(config: Any) -> bool:
    """Latent and sparse attention have backends of their own."""
    if config.use_mla or config.use_sparse:
        return False
    return config.kv_cache_dtype == "int8_per_token_head" or os.environ.get("INTFLASH_VLLM") == "1"
