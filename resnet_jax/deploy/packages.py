"""Packages that some of this floor needs and an installation may lack, imported where they are first used."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

from resnet_jax.errors import UsageError
from resnet_jax.runtime import distribution

#: Package -> what it imports to report its use over the network, and does without where that is missing. OpenVINO
#: does so when it is imported, by a forked process, which JAX warns of; ours neither reports nor forks.
_REPORTS = {"openvino": "openvino_telemetry"}


def package(name: str, purpose: str, install: str | None = None) -> ModuleType:
    """Return the module called ``name``.

    Args:
        name: of the module, such as ``onnxruntime``.
        purpose: what it is needed for, such as ``--format onnx``.
        install: what the package is called where it is installed from, if that is not the module's name.

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
        with _without(_REPORTS.get(name)):
            return importlib.import_module(name)
    except ImportError as error:
        wanted = install or name
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0]
        said = "which is not installed" if missing else f"and importing it failed ({error})"
        extra = distribution.EXTRA_OF.get(name)
        how = distribution.install(extra) if extra else f"pip install {wanted}"
        raise UsageError(f"{purpose} needs the package {wanted}, {said}: {how}") from error


def is_installed(name: str) -> bool:
    """Return whether there is a package called ``name``; it is not imported.

    >>> is_installed("json"), is_installed("no_such_package")
    (True, False)
    """
    return name in sys.modules or importlib.util.find_spec(name) is not None


@contextlib.contextmanager
def _without(name: str | None) -> Iterator[None]:
    """Let nobody import the module called ``name`` in the ``with`` block, unless it is imported already."""
    if name is None or name in sys.modules:
        yield
        return
    sys.modules[name] = None  # pyright: ignore[reportArgumentType]  # how Python says that there is none
    try:
        yield
    finally:
        del sys.modules[name]
