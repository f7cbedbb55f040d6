"""What is done behind the first import of a module: once, whoever asked for it before, and not if that fails."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from resnet_jax.runtime.after_import import after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module that nobody has imported."""
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)

    def write(text):
        (tmp_path / "looked_for.py").write_text(text)
        importlib.invalidate_caches()
        return "looked_for"

    yield write
    sys.modules.pop("looked_for", None)
    sys.meta_path[:] = before


def test_it_is_done_once_behind_the_import(module):
    name, seen = module("value = 1"), []
    after_import(name, lambda: seen.append(sys.modules[name].value))
    after_import("another", lambda: seen.append("another"))
    assert importlib.util.find_spec(name) is not None  # as jaxtyping asks whether there is JAX
    assert seen == []
    importlib.import_module(name)
    importlib.reload(sys.modules[name])
    assert seen == [1]
    after_import(name, lambda: seen.append("at once"))
    assert seen == [1, "at once"]


def test_two_wishes_are_both_met_and_a_module_that_fails_meets_none(module):
    name, seen = module("raise ImportError('broken')"), []
    after_import(name, lambda: seen.append("first"))
    with pytest.raises(ImportError, match="broken"):
        importlib.import_module(name)
    assert seen == []
    name = module("value = 2")
    after_import(name, lambda: seen.append("second"))
    after_import(name, lambda: seen.append("third"))
    importlib.import_module(name)
    assert sorted(seen) == ["second", "third"]
