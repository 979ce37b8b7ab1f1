# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m intflash``: the intflash command, which the wheel brings along."""

from __future__ import annotations

import os
import sys
from pathlib import Path

COMMAND = Path(__file__).parent / "bin" / "intflash"


def main() -> None:
    """Become the command, with the same arguments."""
    if not COMMAND.exists():
        sys.exit(
            "this wheel is without the intflash command: it was built where CLI11, nlohmann-json "
            "and fmt were not installed"
        )
    os.execv(COMMAND, ["intflash", *sys.argv[1:]])


if __name__ == "__main__":
    main()
