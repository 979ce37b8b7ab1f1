# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""What is documented of intflash.torch and intflash.transformers."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from packages import package

package("torch")
package("transformers")

import intflash.torch  # noqa: E402
import intflash.transformers  # noqa: E402

TEXT = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
MEMBERS = [
    getattr(module, name)
    for module in (intflash.torch, intflash.transformers)
    for name in module.__all__
    if name != "NAME"
]


@pytest.mark.parametrize("example", re.findall(r"```py\n(.*?)```", TEXT, re.S))
def test_the_example_runs(example):
    assert len(example.splitlines()) <= 15
    exec(compile(example, "example", "exec"), {})


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_every_public_name_says_what_it_does_and_takes(member):
    assert inspect.getdoc(member)
    signature = inspect.signature(member)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        if len(signature.parameters) > 1:
            assert f"{parameter.name}:" in inspect.getdoc(member)
