"""What JAX says of its plugin for NVIDIA GPUs on a machine that has none, kept from standard error.

The plugin begins by asking the driver for its devices (``cuInit``). A machine without a GPU has no driver, so that
fails, and JAX logs the failure as an error with its traceback before it takes the CPU, in every process. Where there is
a GPU, or one was asked for, the same error says why it is not used, and is heard.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

#: Of the driver: of a GPU, of all of them, and of Windows' for Linux.
DEVICES = ("dev/nvidia0", "dev/nvidiactl", "dev/dxg")
#: Of NVIDIA, on the PCI bus; and what the class of a display controller begins with.
VENDOR, DISPLAY = "0x10de", "0x03"
#: Who says it, and the words.
LOGGER, SAID = "jax._src.xla_bridge", "Jax plugin configuration error"


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """Return whether there is an NVIDIA GPU, with a driver or without; where nothing is known, yes.

    Args:
        root: of the file system.
    """
    if sys.platform != "linux" or any((root / device).exists() for device in DEVICES):
        return True
    return any(
        _read(device / "vendor") == VENDOR and _read(device / "class").startswith(DISPLAY)
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


class _Absent(logging.Filter):
    """Leaves out what a plugin for NVIDIA GPUs says that finds none, where none is there."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        asked = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
        return not text.startswith(SAID) or "cuda" not in text or bool(asked) or has_nvidia_gpu()


def say_nothing_of_absent_gpus() -> None:
    """Keep JAX from telling of a GPU's plugin that there is no GPU; once or again."""
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(each, _Absent) for each in logger.filters):
        logger.addFilter(_Absent())
