"""Where this package may keep what it can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    """Return the user's cache directory for this package; it need not exist.

    ``RESNET_JAX_CACHE`` names another one. Else it follows the platform: ``XDG_CACHE_HOME`` or ``~/.cache`` on Linux,
    ``~/Library/Caches`` on macOS, ``LOCALAPPDATA`` on Windows.
    """
    chosen = os.environ.get("RESNET_JAX_CACHE")
    if chosen and chosen.lower() != "off":
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "resnet_jax"
