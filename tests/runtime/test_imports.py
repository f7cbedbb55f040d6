"""Modules of one's own, by name and by path: once each, and what goes wrong is said."""

from __future__ import annotations

import re
import sys

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models.norms import NORMS
from resnet_jax.runtime.imports import import_modules, is_imported

CODE = """
from resnet_jax.models import register_norm

@register_norm("imported")
def norm(config, place):
    raise NotImplementedError
"""


@pytest.fixture(autouse=True)
def forgotten():
    yield
    NORMS.pop("imported", None)


def test_a_file_is_imported_once(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    assert not is_imported(str(path))
    import_modules([str(path), str(path)])  # a second registration would be refused
    assert is_imported(str(path))
    assert "imported" in NORMS


def test_a_module_is_imported_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "module_of_mine.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    import_modules(["module_of_mine"])
    assert "imported" in NORMS
    del sys.modules["module_of_mine"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\nraise KeyError('y')", r"importing .*bad.py failed: KeyError: 'y' \(line 2 of bad.py\)"),
        ("def f(:", r"importing .*bad.py failed: SyntaxError"),
        (CODE.replace("imported", "batch"), "importing .*bad.py: there is a norm called 'batch' already"),
        (None, "importing .*bad.py: there is no file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, code, said):
    path = tmp_path / "bad.py"
    if code is not None:
        path.write_text(code)
    with pytest.raises(UsageError, match=said):
        import_modules([str(path)])
    assert not is_imported(str(path))


def test_a_module_that_is_not_there_is_said():
    with pytest.raises(UsageError, match=re.escape("there is no module nowhere.mine; a file is named with its .py")):
        import_modules(["nowhere.mine"])
