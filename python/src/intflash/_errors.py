# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions: one class for each status of the C interface, with the library's own message."""


class Error(Exception):
    """A call that failed; its outputs, and the objects involved, are as they were."""


class ArgumentError(Error, ValueError):
    """A value outside its range or enumeration (INTFLASH_INVALID_ARGUMENT)."""


class ShapeError(ArgumentError):
    """A length, head count or head_dim that breaks a rule (INTFLASH_BAD_SHAPE)."""


class StrideError(ArgumentError):
    """Rows that overlap, or cannot be written in place (INTFLASH_BAD_STRIDE)."""


class SizeOverflowError(Error, OverflowError):
    """A size that does not fit the address space (INTFLASH_SIZE_OVERFLOW)."""


class ScaleError(ArgumentError):
    """A bad softmax scale or score cap (INTFLASH_BAD_SCALE)."""


class NonfiniteInputError(ArgumentError):
    """NaN or infinity in an input (INTFLASH_NONFINITE_INPUT)."""


class ScoreOverflowError(Error, OverflowError):
    """Finite inputs whose scores would leave the range of f32 (INTFLASH_SCORE_OVERFLOW)."""


class UnsupportedError(Error, NotImplementedError):
    """A valid request that nothing here serves; the message says why (INTFLASH_UNSUPPORTED)."""


class UnknownIsaError(ArgumentError):
    """INTFLASH_ISA in the environment names no port (INTFLASH_UNKNOWN_ISA)."""


class IsaUnavailableError(UnsupportedError):
    """A port that this build, CPU or system lacks (INTFLASH_ISA_UNAVAILABLE)."""


class WorkspaceError(Error):
    """A workspace that is too small (INTFLASH_WORKSPACE_TOO_SMALL)."""


class OutOfMemoryError(Error, MemoryError):
    """The system gave no memory (INTFLASH_OUT_OF_MEMORY)."""


class PoolExhaustedError(Error):
    """A cache without enough free pages (INTFLASH_POOL_EXHAUSTED)."""


class CancelledError(Error):
    """A run that was asked to end (INTFLASH_CANCELLED)."""


class BadFileError(Error, ValueError):
    """A saved sequence that is cut short, damaged, or of another cache (INTFLASH_BAD_FILE)."""


class BusyError(Error):
    """Another thread is using the object: nothing was done (INTFLASH_BUSY)."""


class DeviceUnavailableError(UnsupportedError):
    """A device that this machine, or its driver, lacks (INTFLASH_DEVICE_UNAVAILABLE)."""


class DeviceFailedError(Error):
    """What a device's driver reported while it was in use (INTFLASH_DEVICE_FAILED)."""


class CopyWarning(UserWarning):
    """An input had to be copied, since its last dimension is not contiguous."""


# By the number of the status in the C interface.
BY_STATUS: dict[int, type[Error]] = {
    1: ArgumentError,
    2: ShapeError,
    3: StrideError,
    4: SizeOverflowError,
    5: ScaleError,
    6: NonfiniteInputError,
    7: ScoreOverflowError,
    8: UnsupportedError,
    9: UnknownIsaError,
    10: IsaUnavailableError,
    11: WorkspaceError,
    12: OutOfMemoryError,
    13: PoolExhaustedError,
    14: CancelledError,
    15: BadFileError,
    16: BusyError,
    17: DeviceUnavailableError,
    18: DeviceFailedError,
}

for _class in (Error, CopyWarning, *BY_STATUS.values()):
    _class.__module__ = "intflash"
