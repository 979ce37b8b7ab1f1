# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Packages that tests want, and not every machine has."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import pytest


def package(name: str) -> ModuleType:
    """Import it, or skip the module that asks."""
    required = os.environ.get("INTFLASH_REQUIRE_PACKAGES", "").split(",")
    try:
        return importlib.import_module(name)
    except ImportError:
        if name in required:
            raise
    pytest.skip(
        f"{name} is not installed; INTFLASH_REQUIRE_PACKAGES={name} makes that an error",
        allow_module_level=True,
    )


def want_installed(name: str) -> None:
    """Skip the module that asks where a package is missing, which its processes import."""
    if importlib.util.find_spec(name) is None:
        package(name)
