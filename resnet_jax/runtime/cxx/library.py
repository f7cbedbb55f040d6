"""Compiles the C++ of ``ops/native`` once per machine, its units in parallel, and caches the library.

:mod:`resnet_jax.runtime.cxx.kept` describes where a library is cached and how it is verified. Compiling takes longer
than loading JAX, so a command starts it first (:func:`begin`); code that needs the library waits for the running
compilation.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path

from resnet_jax.runtime.absent_chips import has_nvidia_gpu, has_tpu
from resnet_jax.runtime.cache import cache_directory, code_directory, processor, why_not_writable
from resnet_jax.runtime.cxx.compiler import (
    VERSION_LIMIT,
    CompilerError,
    compiler_limit,
    run_compiler,
    run_compilers,
    stop_compilers,
)
from resnet_jax.runtime.cxx.kept import WORK, Library, find, in_turn, keep
from resnet_jax.runtime.ending import before_the_end
from resnet_jax.runtime.trusted import distrust, make_private

#: ``off`` uses XLA's own implementations.
SWITCH = "RESNET_JAX_NATIVE"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-w")
#: The units that take longest to compile start first; the others follow by name.
LONG = ("correlate_narrow.cc", "correlate_64.cc", "correlate_32.cc", "conv.cc", "weight_gradient.cc")

_log = logging.getLogger(__name__)


class Begun:
    """A compilation in a thread.

    Args:
        compiler: the compiler to run.
    """

    def __init__(self, compiler: str):
        self.compiler = compiler
        self._found: Library | None = None
        self._failure: CompilerError | OSError | None = None
        self.compiles = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="C++")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = compiled(self.compiler, self.compiles)
        except (CompilerError, OSError) as failure:
            self._failure = failure

    @property
    def is_running(self) -> bool:
        """Whether a compiler is running, here or in another process that is waited for."""
        return self.compiles.is_set() and self._thread.is_alive()

    def result(self) -> Library:
        """Wait for it.

        Raises:
            CompilerError: as for :func:`compiled`.
            OSError: as for :func:`compiled`.
        """
        self._thread.join()
        if self._found is None:
            raise self._failure or CompilerError("the compiler was stopped")
        return self._found


_begun: list[Begun] = []


def begin() -> None:
    """Start compiling, in a thread, what a network needs on a CPU, if there is a compiler and JAX will use a CPU.

    Failures are not reported here, but to the code that needs the library.
    """
    if _begun or is_switched_off() or not _runs_on_cpu() or (compiler := find_compiler()) is None:
        return
    before_the_end(stop_compilers)
    _begun.append(Begun(compiler))


def is_compiling() -> bool:
    """Return whether the compilation that was started is still running."""
    return any(begun.is_running for begun in _begun)


def library(compiler: str) -> Library:
    """Return the library, from the running compilation if there is one; see :func:`compiled`."""
    if _begun and _begun[-1].compiler == compiler:
        return _begun.pop().result()
    return compiled(compiler)


def is_switched_off() -> bool:
    """Return whether the user has disabled compiled C++."""
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "false")


def find_compiler() -> str | None:
    """Return the path of the compiler: that of ``CXX``, or the first of the usual ones."""
    return next((found for name in compilers() if (found := shutil.which(name))), None)


def compilers() -> list[str]:
    """Return the names of suitable compilers."""
    return [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]


def _runs_on_cpu() -> bool:
    """Return whether JAX, not loaded yet, will use the CPU: because it has no choice, or was told to."""
    platforms = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    if importlib.util.find_spec("libtpu") and has_tpu():
        return False
    plugins = importlib.util.find_spec("jax_plugins")
    folders = (plugins and plugins.submodule_search_locations) or ()
    names = [path.name for folder in folders for path in Path(folder).glob("*")]
    return all(name.startswith("xla_cuda") for name in names) and not (names and has_nvidia_gpu())


def compiled(compiler: str, compiles: threading.Event | None = None) -> Library:
    """Return the library for these sources, compiler, jaxlib and processor; compile it if there is none.

    Args:
        compiler: its path.
        compiles: set while it is compiled, here or in another process.

    Raises:
        CompilerError: if it failed, here or in the other process.
        OSError: if the library cannot be written.
    """
    here = resources.files("resnet_jax") / "ops" / "native"
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
        _log.warning("compiled operations are code, so they are not loaded from the cache: %s", reason)
    if reason is not None:
        folder = code_directory() / "native"
        _log.info("%s: %s; the compiled operations go to %s", cache_directory(), reason, folder)
        make_private(folder)
    if compiles is not None:
        compiles.set()
    return in_turn(folder, identity, lambda: _compile(compiler, sources, folder, identity, limit), limit)


def _compile(compiler: str, sources: Mapping[str, bytes], folder: Path, identity: str, limit: float) -> Library:
    _log.info("compiling %s for this processor, once, to %s", ", ".join(sorted(sources)), folder)
    with tempfile.TemporaryDirectory(
        prefix=WORK, dir=folder
    ) as work:  # renamed when whole: this process may be killed meanwhile
        for source, text in sources.items():
            (Path(work) / source).write_bytes(text)
        units = sorted((source for source in sources if source.endswith(".cc")), key=_first)
        compile_one = [compiler, *FLAGS, f"-I{_headers_of_xla()}", "-c"]
        commands = [[*compile_one, str(Path(work) / unit), "-o", str(Path(work) / f"{unit}.o")] for unit in units]
        environment = {**os.environ, "TMPDIR": work}  # the compiler's own files too: /tmp may be full
        run_compilers(commands, limit, environment, Path(work))
        built, parts = Path(work) / "native.so", [command[-1] for command in commands]
        run_compiler([compiler, *FLAGS, "-shared", *parts, "-o", str(built)], limit, environment)
        return keep(built, folder, identity)


def _first(unit: str) -> tuple[int, str]:
    """Return a sort key for the units: those that take longest start first."""
    return LONG.index(unit) if unit in LONG else len(LONG), unit


def _headers_of_xla() -> str:
    """Return the result of ``jax.ffi.include_dir()``, without loading JAX."""
    found = importlib.util.find_spec("jaxlib")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        with contextlib.suppress(OSError):
            if (Path(folder) / "include" / "xla").is_dir():
                return str(Path(folder) / "include")
    raise CompilerError("jaxlib has no headers of XLA")
