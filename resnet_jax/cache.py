"""Where this package keeps what it can make again, and the compiled programs of the command line there."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

#: Names another cache directory; ``off`` keeps no compiled programs.
VARIABLE = "RESNET_JAX_CACHE"
#: Programs that compiled faster are not kept: reading them back would save nothing.
MIN_COMPILE_SECONDS = 0.2

_log = logging.getLogger(__name__)


def cache_directory() -> Path:
    """Return the user's cache directory for this package; it need not exist.

    ``RESNET_JAX_CACHE`` names another one. Else it follows the platform: ``XDG_CACHE_HOME`` or ``~/.cache`` on Linux,
    ``~/Library/Caches`` on macOS, ``LOCALAPPDATA`` on Windows.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen and chosen.lower() != "off":
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "resnet_jax"


def program_directory() -> Path | None:
    """Return where compiled programs are kept; None if ``RESNET_JAX_CACHE`` is off.

    Every kind of processor has a folder of its own: a program compiled for one may not run on another, and machines
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
        lines = [line for line in cpuinfo.read_text().splitlines() if line.split("\t")[0].rstrip(": ") in keys]
        return "\n".join(sorted(set(lines)))
    return f"{platform.machine()} {platform.processor()} {platform.node()}"


def keep_compiled_programs() -> Path | None:
    """Let JAX keep what it compiles, so that a later process with the same program starts without compiling.

    A kept program is the very one that was compiled: with the same version of this package, which may bring other C++
    for it to call, its numbers are the same to the last bit. On a GPU the choices of
    autotuning are kept too. A directory that the user gave JAX (``JAX_COMPILATION_CACHE_DIR``) stays. Call it before
    anything is compiled.

    Returns:
        The directory; None if nothing is kept, because it is switched off or the directory cannot be written (which
        is logged).
    """
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None:
        return Path(config.jax_compilation_cache_dir)
    directory = program_directory()
    if directory is None:
        return None
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("compiled programs are not kept: %s: %s", directory, error.strerror or error)
        return None
    if not os.access(directory, os.W_OK):
        _log.warning("compiled programs are not kept: %s cannot be written", directory)
        return None
    config.update("jax_compilation_cache_dir", str(directory))
    config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    config.update("jax_persistent_cache_enable_xla_caches", "xla_gpu_per_fusion_autotune_cache_dir")
    return directory
