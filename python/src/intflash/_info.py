# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""What computes, and why."""

from __future__ import annotations

from dataclasses import dataclass

from . import _core


@dataclass(frozen=True)
class Port:
    """The kernels for one instruction set."""

    name: str
    built: bool
    supported: bool
    reason: str  # why this machine does not run it; empty where it does


@dataclass(frozen=True)
class Info:
    """What a call with the same threads would use."""

    version: str
    device: str
    port: str
    port_reason: str  # why each better port was passed over
    threads: int
    ports: tuple[Port, ...]  # best first


def info(threads: int | None = None) -> Info:
    """Say which port and how many threads compute, and what else there is.

    INTFLASH_ISA in the environment forces a port.

    Raises:
        UnknownIsaError: INTFLASH_ISA names no port.
        IsaUnavailableError: it names one that does not run here.
    """
    device, port, reason, num_threads = _core.context_info(threads)
    ports = tuple(Port(*fields) for fields in _core.ports())
    return Info(_core.version, device, port, reason, num_threads, ports)
