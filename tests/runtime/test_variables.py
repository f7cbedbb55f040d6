"""The table of environment variables names all that the source reads, and the page is made of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import resnet_jax
from resnet_jax.runtime.variables import VARIABLES, those_set, variables_table

SOURCE = Path(resnet_jax.__path__[0])
NAMES = {name for variable in VARIABLES for name in variable.name.split(", ")}
#: Read of machines described to a compiler, and set for processes of its own: none of a user's.
NOT_A_USERS = {"MPLCONFIGDIR", "RESNET_JAX_COLUMNS"}


def trees():
    for path in SOURCE.rglob("*.py"):
        if path.name != "variables.py":
            yield path, path.read_text(encoding="utf-8")


def test_every_variable_of_ours_in_the_source_is_in_the_table_and_the_other_way_round():
    ours = {name for _, text in trees() for name in re.findall(r"\"(RESNET_JAX_[A-Z_]+)\"", text)}
    assert ours == {name for name in NAMES if name.startswith("RESNET_JAX_")}


def test_every_variable_that_is_read_by_its_name_is_in_the_table():
    """``environ.get("X")``, ``environ["X"]`` and ``"X" in environ``, whatever the mapping is called."""
    read = set()
    for _, text in trees():
        if "environ" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            name = None
            match node:
                case ast.Call(func=ast.Attribute(value=where, attr="get"), args=[ast.Constant(value=str(name)), *_]):
                    pass
                case ast.Subscript(value=where, slice=ast.Constant(value=str(name)), ctx=ast.Load()):
                    pass
                case ast.Compare(left=ast.Constant(value=str(name)), comparators=[where]):
                    pass
                case _:
                    continue
            if name and "environ" in ast.unparse(where) and name.isupper():
                read.add(name)
    assert {"JAX_PLATFORMS", "CXX"} <= read
    assert read - NAMES - NOT_A_USERS == set()


def test_the_page_has_the_table():
    page = SOURCE.parent / "docs" / "environment.md"
    assert variables_table() in page.read_text(encoding="utf-8")


def test_secrets_are_told_to_nobody():
    found = those_set({"RESNET_JAX_SERVE_TOKEN": "abc", "HF_TOKEN": "x", "JAX_PLATFORMS": "cpu", "HOME": "/home/me"})
    assert found == {"JAX_PLATFORMS": "cpu", "RESNET_JAX_SERVE_TOKEN": "(set)"}
