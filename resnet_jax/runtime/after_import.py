"""Actions to run once JAX is loaded, whoever loads it, and not before: help and usage errors do not need JAX."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Finder(MetaPathFinder):
    """Finds one module as the other finders do, and acts once it has been executed; looking it up changes nothing."""

    def __init__(self, name: str, act: Callable[[], Any]) -> None:
        self._name, self._act, self._asks = name, act, False

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the module's own specification, with a loader that acts afterwards; None for any other module."""
        if fullname != self._name or self._asks:
            return None
        self._asks = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asks = False
        loader: Any = spec.loader if spec else None
        if loader is not None:
            execute = loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                with contextlib.suppress(ValueError):
                    sys.meta_path.remove(self)
                execute(module)
                self._act()

            loader.exec_module = execute_and_act
        return spec


def after_import(name: str, act: Callable[[], Any]) -> None:
    """Call ``act`` after the first import of a module, or immediately if it is already loaded.

    An exception it raises is raised by that import.

    >>> after_import("this_module_is_nowhere", print)  # never called
    >>> after_import("sys", lambda: print("at once"))
    at once
    """
    if name in sys.modules:
        act()
        return
    sys.meta_path.insert(0, _Finder(name, act))
