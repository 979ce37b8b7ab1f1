# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention in integers on CPUs: INT8 products, and the same bits everywhere.

`attend` takes NumPy's arrays, PyTorch's tensors, and whatever else has DLPack or the buffer
protocol; `Cache` and `Batch` attend over a KV cache of INT8 pages, and `Pages` are those of a
server that has memory and tables of its own. Neither NumPy nor PyTorch is imported, nor needed.
"""

from . import _core
from ._attend import attend, merge_states
from ._batch import Batch
from ._cache import Cache, Sequence
from ._calibration import HeadGroup, load_calibration
from ._errors import (
    ArgumentError,
    BadFileError,
    BusyError,
    CancelledError,
    CopyWarning,
    DeviceFailedError,
    DeviceUnavailableError,
    Error,
    IsaUnavailableError,
    NonfiniteInputError,
    OutOfMemoryError,
    PoolExhaustedError,
    ScaleError,
    ScoreOverflowError,
    ShapeError,
    SizeOverflowError,
    StrideError,
    UnknownIsaError,
    UnsupportedError,
    WorkspaceError,
)
from ._info import Info, Port, info
from ._pages import CacheInfo, Pages
from ._rope import Rope

__version__: str = _core.version

__all__ = [
    "ArgumentError",
    "BadFileError",
    "Batch",
    "BusyError",
    "Cache",
    "CacheInfo",
    "CancelledError",
    "CopyWarning",
    "DeviceFailedError",
    "DeviceUnavailableError",
    "Error",
    "HeadGroup",
    "Info",
    "IsaUnavailableError",
    "NonfiniteInputError",
    "OutOfMemoryError",
    "Pages",
    "PoolExhaustedError",
    "Port",
    "Rope",
    "ScaleError",
    "ScoreOverflowError",
    "Sequence",
    "ShapeError",
    "SizeOverflowError",
    "StrideError",
    "UnknownIsaError",
    "UnsupportedError",
    "WorkspaceError",
    "attend",
    "info",
    "load_calibration",
    "merge_states",
    "__version__",
]
