"""Keeps messages of JAX's GPU and TPU plugins off standard error on machines without such devices.

The plugin for NVIDIA GPUs first asks the driver for its devices (``cuInit``). A machine without a GPU has no driver, so
this fails, and JAX logs the failure as an error with its traceback before it falls back to the CPU, in every process.
libtpu looks for the name of the machine and of its neighbors, and if JAX sees no TPU, reports what it does not find. If
there is such a device, or one was requested, the same messages explain why it is not used, and are not suppressed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path

#: Device files of NVIDIA's GPU driver: of a GPU, of all of them, and of Windows' for Linux.
DEVICES = ("dev/nvidia0", "dev/nvidiactl", "dev/dxg")
#: PCI IDs: NVIDIA, and the prefix of the class of display controllers; and Google.
NVIDIA, DISPLAY, GOOGLE = "0x10de", "0x03", "0x1ae0"
#: The logger that reports a failing plugin, and the words.
LOGGER, SAID = "jax._src.xla_bridge", "Jax plugin configuration error"
#: What libtpu would look for; JAX itself prevents it from querying the cloud if it sees no TPU.
NO_TPU = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """Return whether there is an NVIDIA GPU, with or without a driver; True if unknown.

    Args:
        root: root of the file system.
    """
    return any((root / device).exists() for device in DEVICES) or _on_the_bus(root, NVIDIA, DISPLAY)


def has_tpu(root: Path = Path("/")) -> bool:
    """Return whether there is, or may be, a TPU; True if unknown.

    Args:
        root: root of the file system.
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
    """Return whether the user has set JAX's platform."""
    return bool(os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME"))


class _AbsentGpu(logging.Filter):
    """Filters out the message of a plugin for NVIDIA GPUs that finds none, if there is none."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not text.startswith(SAID) or "cuda" not in text or _asked() or has_nvidia_gpu()


def say_nothing_of_absent_chips() -> None:
    """Silence JAX and its plugins about absent devices; call it before JAX looks for them, once or more often."""
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(each, _AbsentGpu) for each in logger.filters):
        logger.addFilter(_AbsentGpu())
    if importlib.util.find_spec("libtpu") and not (_asked() or "JAX_FORCE_TPU_INIT" in os.environ or has_tpu()):
        for name, value in NO_TPU.items():
            os.environ.setdefault(name, value)
