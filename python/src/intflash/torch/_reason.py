# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Why a call was handed over to PyTorch's own attention."""

from __future__ import annotations

import threading

import torch


class _Last(threading.local):
    reason: str | None = None


_last = _Last()


def note(reason: str | None) -> None:
    """Keep the reason, or that there is none, unless the call is only being traced."""
    if not torch.compiler.is_compiling():
        _last.reason = reason


def note_served() -> None:
    """Keep that there is none, outside of compiled code."""
    _last.reason = None


def last_reason() -> str | None:
    """Say why this thread's last call was handed over to PyTorch's own attention.

    None where intflash served it. A call inside compiled code is noted where it is run, except what
    is handed over while the code is traced.
    """
    return _last.reason
