"""Compile the C++ beside this file once for a machine, keep the library, and make its functions known to XLA."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import threading
from importlib import metadata, resources
from pathlib import Path

import jax

from resnet_jax.runtime.cache import cache_directory, private_directory, processor, why_not_writable

#: ``off`` keeps XLA's own forms.
SWITCH = "RESNET_JAX_NATIVE"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-w")
#: Names in the library; XLA knows them as ``resnet_jax_<name>``.
FUNCTIONS = (
    "conv_forward", "conv_input_gradient", "conv_weight_gradient",
    "channel_moments", "channel_collect", "channel_collect_masked",
    "max_pool", "max_pool_gather", "max_pool_scatter",
)  # fmt: skip

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
    except subprocess.CalledProcessError as error:
        return _slower(f"{compiler} failed: {(error.stderr.strip().splitlines() or [f'exit {error.returncode}'])[-1]}")
    except (OSError, AttributeError) as error:
        return _slower(str(error))
    return None


def _slower(reason: str) -> str:
    _log.warning("convolutions and batch norm on the CPU take XLA's own forms, much slower: %s", reason)
    return reason


def _compilers() -> list[str]:
    return [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]


def _opened(compiler: str) -> ctypes.CDLL:
    """Load the library; one that does not load (a full disk, another C library) is compiled anew."""
    library = _compiled(compiler)
    try:
        return ctypes.CDLL(str(library))
    except OSError:
        library.unlink(missing_ok=True)
        return ctypes.CDLL(str(_compiled(compiler)))


def _compiled(compiler: str) -> Path:
    """Return the library for these sources, compiler, jaxlib and processor; compile it if there is none."""
    here = resources.files("resnet_jax.ops.native")
    sources = {file.name: file.read_bytes() for file in here.iterdir() if file.name.endswith((".cc", ".h"))}
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    identity = repr((sorted(sources.items()), version, metadata.version("jaxlib"), processor(), FLAGS))
    name = f"native-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    folder = cache_directory() / "native"
    if (folder / name).exists():
        return folder / name
    reason = why_not_writable(folder)
    if reason is not None:
        folder = private_directory() / "native"
        _log.info("%s: %s; the compiled operations go to %s", cache_directory(), reason, folder)
        if (folder / name).exists():
            return folder / name
        folder.mkdir(parents=True, exist_ok=True)
    library = folder / name
    _log.info("compiling %s for this processor, once: %s", ", ".join(sorted(sources)), library)
    with tempfile.TemporaryDirectory(dir=folder) as work:  # renamed when whole: another process may be at it too
        for source, text in sources.items():
            (Path(work) / source).write_bytes(text)
        units = sorted(str(Path(work) / source) for source in sources if source.endswith(".cc"))
        built = Path(work) / "native.so"
        command = [compiler, *FLAGS, f"-I{jax.ffi.include_dir()}", *units, "-o", str(built)]
        environment = {**os.environ, "TMPDIR": work}  # the compiler's own files too: /tmp may be full
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        os.replace(built, library)
    return library
