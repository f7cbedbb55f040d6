"""Optional packages that this floor uses, imported on first use."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

from resnet_jax.errors import UsageError
from resnet_jax.runtime import distribution

#: Package -> the module that it imports to report its use over the network, and does without if that is missing.
#: OpenVINO does so on import, through a forked process, which JAX warns about. This package neither reports nor forks.
_REPORTS = {"openvino": "openvino_telemetry"}


def package(name: str, purpose: str, install: str | None = None) -> ModuleType:
    """Return the module called ``name``.

    Args:
        name: name of the module, such as ``onnxruntime``.
        purpose: what it is needed for, such as ``--format onnx``.
        install: name of the package to install, if it differs from the module's.

    Raises:
        UsageError: it is not installed; the message says how to install it.

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
    """Return whether a module called ``name`` exists, without importing it.

    >>> is_installed("json"), is_installed("no_such_package")
    (True, False)
    """
    return name in sys.modules or importlib.util.find_spec(name) is not None


@contextlib.contextmanager
def _without(name: str | None) -> Iterator[None]:
    """Prevent imports of the module called ``name`` inside the ``with`` block, unless it is already imported."""
    if name is None or name in sys.modules:
        yield
        return
    sys.modules[name] = None  # pyright: ignore[reportArgumentType]  # marks a module as not importable
    try:
        yield
    finally:
        del sys.modules[name]
