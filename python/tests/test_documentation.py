# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""What is documented: examples run, and every public name has a docstring and types."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import intflash

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    pytest.param(text, id=f"{name}-{i}")
    for name in ("docs/python.md", "README.md")
    for i, text in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S))
]


def test_there_are_seven_examples_and_one_in_the_readme():
    assert len(EXAMPLES) == 8


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_runs(example):
    assert len(example.splitlines()) <= 15
    exec(compile(example, "example", "exec"), {})


def members() -> list:
    listed = [getattr(intflash, name) for name in intflash.__all__ if name != "__version__"]
    for owner in (intflash.Cache, intflash.Pages, intflash.Sequence, intflash.Batch):
        listed += [member for name, member in vars(owner).items() if not name.startswith("_")]
    return listed


@pytest.mark.parametrize("member", members(), ids=str)
def test_public_names_are_documented_and_typed(member):
    assert inspect.getdoc(member)
    function = member.fget if isinstance(member, property) else member
    if inspect.isfunction(function):
        signature = inspect.signature(function)
        assert signature.return_annotation is not signature.empty
        for name, parameter in signature.parameters.items():
            assert name == "self" or parameter.annotation is not parameter.empty


def test_stubs_name_what_the_module_has():
    stub = (Path(intflash.__file__).parent / "_core.pyi").read_text()
    core = intflash._core
    for owner, text in ((core, stub), (core.Cache, stub), (core.Batch, stub)):
        for name in vars(owner):
            if not name.startswith("_"):
                assert re.search(rf"(def|class) {name}\b|^{name}:", text, re.M), name
    assert (Path(intflash.__file__).parent / "py.typed").exists()
