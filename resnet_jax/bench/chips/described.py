"""Devices that are described instead of present, for the compilers in libtpu and in the CUDA plugin."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

from resnet_jax.bench.chips.table import Chips
from resnet_jax.errors import RunError, UsageError
from resnet_jax.runtime.distribution import install

#: Prevents libtpu from looking for its machine, and the CUDA plugin from asking for a driver.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is opened, so several processes may compile
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
#: For each platform: alternative packages that contain its compiler, and the extra that installs them.
NEEDED = {"tpu": (("libtpu",), "tpu"), "gpu": (("jax_cuda12_plugin", "jax_cuda13_plugin"), "cuda12")}
#: Makes XLA spend less time and memory on programs that are only counted.
LOW_EFFORT = {"exec_time_optimization_effort": -1.0}


def missing(platform: str) -> str:
    """Return what must be installed to compile for a platform; empty if nothing."""
    packages, extra = NEEDED[platform]
    if any(importlib.util.find_spec(package) is not None for package in packages):
        return ""
    kind = "TPUs" if platform == "tpu" else "NVIDIA GPUs"
    return f"the compiler for {kind} is not installed: {install(extra)}; it needs no {platform.upper()}"


def require_compiler(platform: str) -> None:
    """Check that a platform can be compiled for.

    Raises:
        UsageError: if it cannot; the message says what to install.
    """
    if said := missing(platform):
        raise UsageError(said)


def versions(platform: str) -> dict[str, str]:
    """Return the versions of the compilers."""
    names = ["jax", "jaxlib"]
    names += ["libtpu"] if platform == "tpu" else ["jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12"]
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def described_devices(chips: Chips) -> list[Any]:
    """Return the devices; call it in a process with :data:`ENVIRONMENT`.

    Raises:
        UsageError: if the compiler does not know this arrangement.
        RunError: if the compiler could not be started.
    """
    import jax
    from jax.experimental import topologies

    chip, sides = chips.chip, "x".join(map(str, chips.shape))
    try:
        if chip.platform == "gpu":
            found = topologies.get_topology_desc(
                chip.name, platform="cuda", target_config=chip.target, topology=f"1x{sides}"
            )
        else:
            one = {"chips_per_host_bounds": (1, 1, 1)} if chips.count == 1 else {}
            found = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip.name}:{sides}", **one)
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise RunError(f"--chips {chips.text}: the compiler could not be started: {error}") from None
        raise UsageError(f"--chips {chips.text}: the compiler has no such slice: {error}") from None
    return list(found.devices)
