# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""What several files of tests begin with."""

import numpy as np
import pytest
from oracle import random


@pytest.fixture
def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, key and value, of 4 query and 2 kv heads."""
    return (
        random(2, 4, 70, 64, seed=1),
        random(2, 2, 200, 64, seed=2),
        random(2, 2, 200, 48, seed=3),
    )
