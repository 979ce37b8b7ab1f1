# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""All of a process's attention: kernels of PyTorch's own operators on the CPU."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

import intflash

from . import _ops
from ._ragged import ragged
from ._reason import note
from ._sdpa import why_not

_SDPA = "_scaled_dot_product_flash_attention_for_cpu"
_RAGGED = "_flash_attention_forward"  # which PyTorch has no kernel for on the CPU

_lock = threading.Lock()
_library: torch.library.Library | None = None
_original: object = None


def activate() -> None:
    """Take what ``F.scaled_dot_product_attention`` computes on the CPU, in all of the process.

    That is the operator ``aten::_scaled_dot_product_flash_attention_for_cpu``, to which PyTorch
    hands dense inputs of one head dimension, without dropout. Calls that ``sdpa`` would hand over
    go to the original kernel; so do those whose gradient is wanted, except where torch.compile or
    torch.func hides that: do not train under it there. Code that torch.compile has compiled is
    taken as well, unless its attention was fused or decomposed.

    ``aten::_flash_attention_forward`` is served too, by which
    ``torch.nn.attention.varlen.varlen_attn`` computes: PyTorch has it for GPUs alone.
    """
    global _library, _original
    with _lock:
        if _library is not None:
            return
        operator = getattr(torch.ops.aten, _SDPA).default
        _original = torch.library.get_kernel(operator, "CPU")
        library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
            library.impl(_SDPA, _sdpa_for_cpu, "CPU", with_keyset=True)
        library.impl(_RAGGED, _flash_attention_forward, "CPU")
        _library = library


def deactivate() -> None:
    """Give PyTorch its own kernels back."""
    global _library
    with _lock:
        if _library is not None:
            _library._destroy()
            _library = None


def is_active() -> bool:
    """Say whether `activate` is in force."""
    return _library is not None


@contextlib.contextmanager
def active() -> Iterator[None]:
    """Activate inside a ``with``, in all threads; afterwards all is as it was."""
    was_active = is_active()
    activate()
    try:
        yield
    finally:
        if not was_active:
            deactivate()


def _sdpa_for_cpu(
    keys: torch._C.DispatchKeySet,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    reason = why_not(query, key, value, attn_mask, dropout_p, scale, True)
    if reason is None:
        causal = "top_left" if is_causal else ""
        try:
            out, sums = _ops.compute(
                query, key, value, attn_mask, causal, -1, -1, scale, 0.0, None, None, True
            )
        except _ops.NOT_SERVED as error:
            reason = str(error)
    note(reason)
    if reason is not None:
        return _original.call_boxed(
            keys, query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )
    batch, heads, tokens = sums.shape
    lse = sums.new_empty(batch, tokens, heads).transpose(1, 2)  # the strides of the original
    return out, lse.copy_(sums.masked_fill_(sums == -torch.inf, 0))  # where no key is seen, too


def _flash_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cum_seq_q: Tensor | None,
    cum_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    seqused_k: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if dropout_p != 0 or return_debug_mask or cum_seq_q is None:
        raise intflash.UnsupportedError(
            "_flash_attention_forward serves sequences by cum_seq_q, without dropout_p and "
            "return_debug_mask"
        )
    out, lse = ragged(
        query,
        key,
        value,
        cum_seq_q,
        cum_seq_k,
        seqused_k,
        block_table,
        is_causal,
        -1 if window_size_left is None else window_size_left,
        -1 if window_size_right is None else window_size_right,
        scale,
        0.0,
        alibi_slopes,
    )
    state, offset = (query.new_empty(shape, dtype=torch.uint64) for shape in ((2,), ()))
    return out, lse, state, offset, query.new_empty(0)
