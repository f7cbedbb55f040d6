"""Register the compiled C++ functions next to this file with XLA; :mod:`resnet_jax.runtime.cxx` compiles them."""

from __future__ import annotations

import ctypes
import functools
import logging
import threading

import jax

from resnet_jax.runtime.cxx import library
from resnet_jax.runtime.cxx.compiler import CompilerError
from resnet_jax.runtime.cxx.kept import load
from resnet_jax.runtime.cxx.library import SWITCH

#: Names in the library; XLA knows them as ``resnet_jax_<name>``.
FUNCTIONS = (
    "conv_forward", "conv_finished", "conv_packed", "pack_kernel", "conv_input_gradient",
    "conv_weight_gradient",
    "channel_moments", "channel_collect", "channel_collect_masked",
    "max_pool", "max_pool_gather", "max_pool_scatter",
    "probe_squares", "probe_join", "probe_join_masked",
)  # fmt: skip

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_opened_once: list[ctypes.CDLL] = []
_identities: list[str] = []


def available() -> bool:
    """Return whether the compiled operations can be used. The first call may compile them (10 to 20 s on two cores)."""
    return _reason() is None


def status() -> str:
    """Return ``native``, or ``xla`` and the reason."""
    reason = _reason()
    return "native" if reason is None else f"xla ({reason})"


def identity() -> str | None:
    """Return what identifies the compiled code (its sources, compiler, jaxlib and processor), or None without a
    library.
    """
    return _identities[0] if available() else None


def integer(name: str, *arguments: int) -> int:
    """Return the result of a library function that takes and returns 64-bit integers.

    Raises:
        RuntimeError: there is no library.
    """
    if not available():
        raise RuntimeError(f"no compiled operations: {status()}")
    function = getattr(_opened_once[0], name)
    function.restype = ctypes.c_int64
    return function(*map(ctypes.c_int64, arguments))


def _reason() -> str | None:
    with _lock:  # several threads may lower programs
        return _load()


@functools.cache
def _load() -> str | None:
    """Compile, load and register the library; return the reason if that fails, otherwise None."""
    if library.is_switched_off():
        return f"{SWITCH} is off"
    compiler = library.find_compiler()
    if compiler is None:
        return _slower("no C++ compiler was found: install g++ or clang++, or set CXX")
    try:
        opened, found = _opened(compiler)
        for name in FUNCTIONS:
            jax.ffi.register_ffi_target(f"resnet_jax_{name}", jax.ffi.pycapsule(getattr(opened, name)), platform="cpu")
        _opened_once.append(opened)
        _identities.append(found)
    except (CompilerError, OSError, AttributeError) as error:
        return _slower(str(error))
    return None


def _slower(reason: str) -> str:
    _log.warning("convolutions and batch norm on the CPU take XLA's own forms, much slower: %s", reason)
    return reason


def _opened(compiler: str) -> tuple[ctypes.CDLL, str]:
    """Load the library and return it with its identity; one that does not load (another C library) is compiled
    again.
    """
    found = library.library(compiler)
    try:
        return load(found), found.path.stem
    except OSError:
        found.path.unlink(missing_ok=True)
        found = library.compiled(compiler)
        return load(found), found.path.stem
