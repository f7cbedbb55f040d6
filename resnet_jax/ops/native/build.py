"""Compile the C++ beside this file once for a machine, keep the library, and make its functions known to XLA.

Where a library is kept and what is believed of it: :mod:`resnet_jax.ops.native.kept`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path

import jax

from resnet_jax.ops.native.compiler import VERSION_LIMIT, CompilerError, compiler_limit, run_compiler, run_compilers
from resnet_jax.ops.native.kept import WORK, Library, find, in_turn, keep, load
from resnet_jax.runtime.cache import cache_directory, code_directory, processor, why_not_writable
from resnet_jax.runtime.trusted import distrust, make_private

#: ``off`` keeps XLA's own forms.
SWITCH = "RESNET_JAX_NATIVE"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-w")
#: Names in the library; XLA knows them as ``resnet_jax_<name>``.
FUNCTIONS = (
    "conv_forward", "conv_finished", "conv_input_gradient", "conv_weight_gradient",
    "channel_moments", "channel_collect", "channel_collect_masked",
    "max_pool", "max_pool_gather", "max_pool_scatter",
    "probe_squares", "probe_join", "probe_join_masked",
)  # fmt: skip

#: The units that take longest to compile begin first; the others follow by name.
LONG = ("correlate_narrow.cc", "norm.cc", "pool.cc", "conv.cc", "correlate_32.cc", "correlate_64.cc")

_log = logging.getLogger(__name__)
_lock = threading.Lock()


def available() -> bool:
    """Return whether the compiled operations can be used; the first call may compile them (about 20 s)."""
    return _reason() is None


def status() -> str:
    """Return ``native``, or ``xla`` and the reason."""
    reason = _reason()
    return "native" if reason is None else f"xla ({reason})"


def _reason() -> str | None:
    with _lock:  # programs may be lowered in several threads
        return _load()


@functools.cache
def _load() -> str | None:
    """Compile, load and register; return why not, or None."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "false"):
        return f"{SWITCH} is off"
    compiler = next((found for name in _compilers() if (found := shutil.which(name))), None)
    if compiler is None:
        return _slower("no C++ compiler was found: install g++ or clang++, or set CXX")
    try:
        library = _opened(compiler)
        for name in FUNCTIONS:
            jax.ffi.register_ffi_target(f"resnet_jax_{name}", jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    except (CompilerError, OSError, AttributeError) as error:
        return _slower(str(error))
    return None


def _slower(reason: str) -> str:
    _log.warning("convolutions and batch norm on the CPU take XLA's own forms, much slower: %s", reason)
    return reason


def _compilers() -> list[str]:
    return [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]


def _opened(compiler: str) -> ctypes.CDLL:
    """Load the library; one that does not load (another C library) is compiled anew."""
    library = _compiled(compiler)
    try:
        return load(library)
    except OSError:
        library.path.unlink(missing_ok=True)
        return load(_compiled(compiler))


def _compiled(compiler: str) -> Library:
    """Return the library for these sources, compiler, jaxlib and processor; compile it if there is none."""
    here = resources.files("resnet_jax.ops.native")
    sources = {file.name: file.read_bytes() for file in here.iterdir() if file.name.endswith((".cc", ".h"))}
    limit = compiler_limit()
    version = run_compiler([compiler, "--version"], min(VERSION_LIMIT, limit))
    about = repr((sorted(sources.items()), version, metadata.version("jaxlib"), processor(), FLAGS))
    identity = f"native-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    folder = cache_directory() / "native"
    reason = distrust(folder)
    if reason is None:
        found = find(folder, identity)
        if found is not None:
            return found
        reason = why_not_writable(folder)
    else:
        _log.warning("compiled operations are code, and not taken from the cache: %s", reason)
    if reason is not None:
        folder = code_directory() / "native"
        _log.info("%s: %s; the compiled operations go to %s", cache_directory(), reason, folder)
        make_private(folder)
    return in_turn(folder, identity, lambda: _compile(compiler, sources, folder, identity, limit), limit)


def _compile(compiler: str, sources: Mapping[str, bytes], folder: Path, identity: str, limit: float) -> Library:
    _log.info("compiling %s for this processor, once, to %s", ", ".join(sorted(sources)), folder)
    with tempfile.TemporaryDirectory(
        prefix=WORK, dir=folder
    ) as work:  # renamed when whole: this process may be killed meanwhile
        for source, text in sources.items():
            (Path(work) / source).write_bytes(text)
        units = sorted((source for source in sources if source.endswith(".cc")), key=_first)
        compile_one = [compiler, *FLAGS, f"-I{jax.ffi.include_dir()}", "-c"]
        commands = [[*compile_one, str(Path(work) / unit), "-o", str(Path(work) / f"{unit}.o")] for unit in units]
        environment = {**os.environ, "TMPDIR": work}  # the compiler's own files too: /tmp may be full
        run_compilers(commands, limit, environment, Path(work))
        built, parts = Path(work) / "native.so", [command[-1] for command in commands]
        run_compiler([compiler, *FLAGS, "-shared", *parts, "-o", str(built)], limit, environment)
        return keep(built, folder, identity)


def _first(unit: str) -> tuple[int, str]:
    """Order the units: those that take longest begin first."""
    return LONG.index(unit) if unit in LONG else len(LONG), unit
