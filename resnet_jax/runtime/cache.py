"""The location of everything this package can regenerate, including the command line's compiled programs."""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from resnet_jax.runtime.programs import Programs, let_jax_use, size_limit
from resnet_jax.runtime.trusted import distrust, make_private

#: Names another cache directory; ``off`` disables the cache of compiled programs.
VARIABLE = "RESNET_JAX_CACHE"
#: Programs that compile faster are not cached: reading them back would save nothing.
MIN_COMPILE_SECONDS = 0.2

#: Used if nothing else can be written.
_HERE = Path(".resnet_jax-cache")

_log = logging.getLogger(__name__)


def cache_directory() -> Path:
    """Return the user's cache directory for this package; it may not exist.

    ``RESNET_JAX_CACHE`` names another one. Otherwise it follows the platform: ``XDG_CACHE_HOME`` or ``~/.cache`` on
    Linux, ``~/Library/Caches`` on macOS, ``LOCALAPPDATA`` on Windows. A user without a home directory (in a minimal
    container) gets a private one among the temporary files, which is reported once.
    """
    chosen = os.environ.get(VARIABLE)
    try:
        if chosen and chosen.lower() != "off":
            return Path(chosen).expanduser().absolute()
        return _base() / "resnet_jax"
    except (RuntimeError, OSError, KeyError) as error:  # no HOME, and no entry of the user in the system's table
        directory = private_directory()
        os.environ.setdefault("MPLCONFIGDIR", str(directory / "matplotlib"))  # it would warn of the same once more
        _say_once(f"there is no home directory ({error}); the cache is {directory}, and {VARIABLE} names another")
        return directory


def _base() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def private_directory() -> Path:
    """Return a temporary directory that only this user can write to, because code is loaded from it.

    Its name contains the user's ID. If someone else has taken the name, or nothing can be written, it is a new
    directory of this process, or (without any temporary directory) one below the current directory.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    try:
        directory = Path(tempfile.gettempdir()) / f"resnet_jax-{user}"
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        if mine and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022:
            return directory
        return _process_directory()
    except OSError:
        return _HERE.absolute()


def code_directory() -> Path:
    """Return :func:`private_directory` for code to be loaded.

    Raises:
        OSError: if others could put something there: no home, no temporary files, and a shared current directory.
    """
    directory = private_directory()
    if directory == _HERE.absolute() and (reason := distrust(directory)) is not None:
        raise OSError(f"there is no private directory: {reason}")
    return directory


@functools.cache
def _process_directory() -> Path:
    directory = tempfile.mkdtemp(prefix="resnet_jax-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


@functools.cache
def _say_once(line: str) -> None:
    _log.warning("%s", line)


def program_directory() -> Path | None:
    """Return where compiled programs are cached; None if ``RESNET_JAX_CACHE`` is off.

    Every kind of processor has its own folder, because a program compiled for one may not run on another, and machines
    may share a home directory.
    """
    if os.environ.get(VARIABLE, "").lower() == "off":
        return None
    return cache_directory() / "xla" / hashlib.sha256(processor().encode()).hexdigest()[:8]


def processor() -> str:
    """Return what machine code depends on: the processor and its features."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        keys = ("model name", "flags", "Features", "CPU part")
        lines = [
            line
            for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.split("\t")[0].rstrip(": ") in keys
        ]
        return "\n".join(sorted(set(lines)))
    return f"{platform.machine()} {platform.processor()} {platform.node()}"


def why_not_writable(directory: Path) -> str | None:
    """Create a directory if necessary; return why files cannot be created in it, or None if they can.

    A file is created and removed, because permissions do not reveal a full or read-only disk.
    """
    try:
        make_private(directory)
        if not os.access(directory, os.W_OK):
            return "it cannot be written"
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def keep_compiled_programs() -> Path | None:
    """Make JAX cache what it compiles, so that a later process with the same program starts without compiling.

    A cached program is exactly the compiled one: with the same version of this package, which may contain other C++ for
    it to call, its numbers are identical to the last bit. On a GPU the choices of autotuning are cached too.
    :mod:`resnet_jax.runtime.programs` describes how programs are verified and how many are kept.

    If others could write to the directory, which contains code, a private one is used. A directory that the user has
    given to JAX (``JAX_COMPILATION_CACHE_DIR``) is kept, and managed by JAX; it is reported if others can write to it.
    Call this before anything is compiled.

    Returns:
        The directory; None if nothing is cached, because it is switched off or the directory cannot be written (which
        is logged).

    Raises:
        UsageError: if ``RESNET_JAX_CACHE_MIB`` is not a number.
    """
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None:
        theirs = str(config.jax_compilation_cache_dir)
        if "://" not in theirs and (reason := distrust(Path(theirs))) is not None:
            _say_once(f"JAX loads compiled programs, which are code, from a place where others can put them: {reason}")
        return Path(theirs)
    directory = program_directory()
    if directory is None:
        return None
    if (reason := distrust(directory)) is not None:
        _say_once(f"compiled programs are code, so they are not loaded from the cache: {reason}")
        directory = private_directory() / directory.relative_to(cache_directory())
    reason = why_not_writable(directory) or distrust(directory)
    if reason is not None:
        _say_once(f"compiled programs are not kept: {directory}: {reason}")
        return None
    let_jax_use(Programs(directory, size_limit()))
    config.update("jax_compilation_cache_dir", str(directory))
    config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    config.update("jax_persistent_cache_enable_xla_caches", "xla_gpu_per_fusion_autotune_cache_dir")
    return directory
