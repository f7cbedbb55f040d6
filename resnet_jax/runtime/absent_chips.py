"""What JAX's plugins for GPUs and TPUs say on a machine that has none, kept from standard error.

The plugin for NVIDIA GPUs begins by asking the driver for its devices (``cuInit``). A machine without a GPU has no
driver, so that fails, and JAX logs the failure as an error with its traceback before it takes the CPU, in every
process. libtpu looks for the name of the machine and of its neighbours, and where JAX sees no TPU writes of what it
does not find. Where there is such a chip, or one was asked for, the same words say why it is not used, and are heard.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path

#: Of the driver of NVIDIA's GPUs: of a GPU, of all of them, and of Windows' for Linux.
DEVICES = ("dev/nvidia0", "dev/nvidiactl", "dev/dxg")
#: On the PCI bus: NVIDIA, and what the class of a display controller begins with; and Google.
NVIDIA, DISPLAY, GOOGLE = "0x10de", "0x03", "0x1ae0"
#: Who says that a plugin fails, and the words.
LOGGER, SAID = "jax._src.xla_bridge", "Jax plugin configuration error"
#: What libtpu would look for; JAX itself keeps it from asking the cloud where it sees no TPU.
NO_TPU = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """Return whether there is an NVIDIA GPU, with a driver or without; where nothing is known, yes.

    Args:
        root: of the file system.
    """
    return any((root / device).exists() for device in DEVICES) or _on_the_bus(root, NVIDIA, DISPLAY)


def has_tpu(root: Path = Path("/")) -> bool:
    """Return whether there is a TPU, or may be; where nothing is known, yes.

    Args:
        root: of the file system.
    """
    return _on_the_bus(root, GOOGLE)


def _on_the_bus(root: Path, vendor: str, kind: str = "") -> bool:
    return sys.platform != "linux" or any(
        _read(device / "vendor") == vendor and _read(device / "class").startswith(kind)
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _asked() -> bool:
    """Whether the user says which platform JAX takes."""
    return bool(os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME"))


class _AbsentGpu(logging.Filter):
    """Leaves out what a plugin for NVIDIA GPUs says that finds none, where none is there."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not text.startswith(SAID) or "cuda" not in text or _asked() or has_nvidia_gpu()


def say_nothing_of_absent_chips() -> None:
    """Keep JAX and its plugins from telling of chips that are not there; before JAX looks for them, once or again."""
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(each, _AbsentGpu) for each in logger.filters):
        logger.addFilter(_AbsentGpu())
    if importlib.util.find_spec("libtpu") and not (_asked() or "JAX_FORCE_TPU_INIT" in os.environ or has_tpu()):
        for name, value in NO_TPU.items():
            os.environ.setdefault(name, value)
