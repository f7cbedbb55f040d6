"""Packages that some of this floor needs and an installation may lack, imported where they are first used."""

from __future__ import annotations

import importlib
from types import ModuleType

from resnet_jax.errors import UsageError


def package(name: str, purpose: str, install: str | None = None) -> ModuleType:
    """Return the module called ``name``.

    Args:
        name: of the module, such as ``onnxruntime``.
        purpose: what it is needed for, such as ``--format onnx``.
        install: what ``pip install`` takes, if that is not the module's name.

    Raises:
        UsageError: it is not installed; it says how to.

    >>> package("json", "reading").__name__
    'json'
    >>> package("no_such_package", "--format onnx")
    Traceback (most recent call last):
    resnet_jax.errors.UsageError: --format onnx needs the package no_such_package, which is not installed: \
pip install no_such_package
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        wanted = install or name
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0]
        said = "which is not installed" if missing else f"and importing it failed ({error})"
        raise UsageError(f"{purpose} needs the package {wanted}, {said}: pip install {wanted}") from error


def is_installed(name: str) -> bool:
    """Return whether the package called ``name`` can be imported; it is imported to know.

    >>> is_installed("json"), is_installed("no_such_package")
    (True, False)
    """
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
