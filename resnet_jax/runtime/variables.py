"""The environment variables that this package reads: one table, from which ``docs/environment.md`` is made.

>>> "RESNET_JAX_CACHE" in {variable.name for variable in VARIABLES}
True
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Variable:
    """An environment variable.

    Attributes:
        name: its name, or several with commas.
        values: the values that it takes; then, after a semicolon, what holds if it is not set.
        says: what it does.
    """

    name: str
    values: str
    says: str


#: First our own variables, then those of others that are read here.
VARIABLES = (
    Variable(
        "RESNET_JAX_CACHE", "a directory, or `off`; the user's cache directory",
        "where compiled programs, compiled C++, data indexes and downloaded weights are kept; `off` keeps no compiled "
        "programs and no indexes",
    ),
    Variable(
        "RESNET_JAX_CACHE_MIB", "MiB; 4096", "the size limit of the compiled programs; the least used ones are removed"
    ),
    Variable(
        "RESNET_JAX_NATIVE", "`off`; on",
        "`off`: operations on the CPU use XLA's own implementations instead of this package's C++, and are slower",
    ),
    Variable(
        "RESNET_JAX_COMPILER_SECONDS", "seconds; see `resnet_jax/runtime/cxx/compiler.py`",
        "how long the C++ compiler may run before it is stopped",
    ),
    Variable("RESNET_JAX_DISTRIBUTED", "`off`; on", "`off`: run as a single process, whatever launched it"),
    Variable(
        "RESNET_JAX_COORDINATOR", "HOST:PORT",
        "with several processes: the address at which process 0 waits for the others",
    ),
    Variable("RESNET_JAX_PROCESSES", "a number", "with several processes: how many there are"),
    Variable("RESNET_JAX_PROCESS", "a number from 0", "with several processes: the index of this one"),
    Variable(
        "RESNET_JAX_CONNECT_TIMEOUT", "seconds; 300", "with several processes: how long each waits for the others"
    ),
    Variable(
        "RESNET_JAX_HEARTBEAT_TIMEOUT", "seconds; 30",
        "with several processes: how long one may send no heartbeat before it counts as dead and all others stop",
    ),
    Variable(
        "RESNET_JAX_LAUNCHER", "set by `resnet-jax launch`", "the id of the process whose end also ends this one"
    ),
    Variable("RESNET_JAX_SERVE_TOKEN", "a token; none", "the token that clients of `resnet-jax serve` must send"),
    Variable(
        "RESNET_JAX_RUN_LINKS", "`follow`; refused",
        "`follow`: a run directory may contain symbolic links that lead out of it",
    ),
    Variable(
        "RESNET_JAX_MAX_CLASSES", "a number; 1000000",
        "the largest number of classes that labels without names may imply",
    ),
    Variable(
        "RESNET_JAX_MAX_UNPACKED_MIB", "MiB; 1024",
        "how much a compressed archive, volume or sound may unpack to if that is more than 8 times its size",
    ),
    Variable(
        "RESNET_JAX_MAX_IMAGE_MIB", "MiB; 256",
        "how much an image file may decode to if that is more than 64 times its size",
    ),
    Variable("RESNET_JAX_MAX_WEIGHTS_MIB", "MiB; 65536", "the largest weights file that is read"),
    Variable("CXX", "a compiler; c++, g++, clang++", "the C++ compiler"),
    Variable("XDG_CACHE_HOME", "a directory; ~/.cache", "on Linux, where the cache directory is created"),
    Variable("LOCALAPPDATA", "a directory", "on Windows, where the cache directory is created"),
    Variable("TFDS_DATA_DIR", "a directory; ~/tensorflow_datasets", "where `doctor` looks for prepared data sets"),
    Variable("HF_ENDPOINT", "a URL", "a mirror of the hub, for weights by name"),
    Variable("JAX_PLATFORMS", "cpu, cuda, tpu; JAX decides", "which devices JAX uses (JAX's own)"),
    Variable("JAX_PLATFORM_NAME", "as JAX_PLATFORMS", "the former name of JAX_PLATFORMS (JAX's own)"),
    Variable("JAX_ENABLE_X64", "1; 0", "float64, for model.dtype float64 (JAX's own)"),
    Variable(
        "JAX_DISABLE_JIT, JAX_DEBUG_NANS", "1; 0",
        "turn off compilation; check every result for NaN: `doctor` warns that both are slow (JAX's own)",
    ),
    Variable(
        "JAX_COMPILATION_CACHE_DIR", "a directory",
        "where JAX keeps compiled programs instead of this package's cache, without checksums or a size limit "
        "(JAX's own)",
    ),
    Variable("JAX_COORDINATOR_ADDRESS", "HOST:PORT", "same as RESNET_JAX_COORDINATOR (JAX's own)"),
    Variable("JAX_LOCAL_DEVICE_IDS", "numbers such as 0,1", "with several processes: the GPUs of this one (JAX's own)"),
    Variable("JAX_NUM_CPU_DEVICES", "a number; 1", "how many devices JAX divides the CPU into (JAX's own)"),
    Variable("JAX_FORCE_TPU_INIT", "set or not", "assume that there is a TPU although none is detected (JAX's own)"),
    Variable("CUDA_VISIBLE_DEVICES", "numbers", "the GPUs that JAX and `launch` can see (NVIDIA's)"),
    Variable("XLA_FLAGS", "flags", "compiler flags (XLA's own); `bench --isa` adds to them"),
    Variable(
        "ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA", "an instruction set",
        "the instruction set that limits PyTorch and oneDNN; `bench` reports it and `bench --isa` sets it",
    ),
    Variable(
        "OPENCV_IO_MAX_IMAGE_PIXELS", "pixels",
        "OpenCV's limit on image size; this package sets it if it is unset (OpenCV's own)",
    ),
    Variable(
        "OMPI_COMM_WORLD_SIZE, OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_LOCAL_RANK", "set by Open MPI",
        "how many processes Open MPI started, and which one this is",
    ),
    Variable(
        "SLURM_JOB_ID, SLURM_STEP_ID, SLURM_STEPID, SLURM_STEP_NUM_TASKS, SLURM_NTASKS, SLURM_PROCID, SLURM_LOCALID",
        "set by SLURM", "the same for SLURM",
    ),
    Variable("JOB_COMPLETION_INDEX", "set by Kubernetes", "this is a pod of an indexed job"),
)  # fmt: skip

#: Prefixes of variables that affect how programs are computed, whoever reads them.
TELLING = (
    "RESNET_JAX_",
    "JAX_",
    "XLA_",
    "CUDA_VISIBLE",
    "OMP_",
    "OPENBLAS_",
    "TF_CPP_",
    "TF_XLA_",
    "TFDS_",
    "LIBTPU",
    "TPU_",
)
#: Parts of names whose values are kept secret.
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")


def those_set(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that are set and may matter, without secrets.

    >>> those_set({"RESNET_JAX_SERVE_TOKEN": "abc", "JAX_ENABLE_X64": "1", "EDITOR": "vi"})
    {'JAX_ENABLE_X64': '1', 'RESNET_JAX_SERVE_TOKEN': '(set)'}
    """
    ours = {name for variable in VARIABLES for name in variable.name.split(", ")} - {"XDG_CACHE_HOME", "LOCALAPPDATA"}
    found = sorted(name for name in environment if name in ours or name.startswith(TELLING))
    return {name: "(set)" if any(part in name for part in SECRET) else environment[name] for name in found}


def variables_table() -> str:
    """Return the table in Markdown."""
    rows = [
        f"| {', '.join(f'`{name}`' for name in variable.name.split(', '))} | {variable.values} | {variable.says} |"
        for variable in VARIABLES
    ]
    return "\n".join(["| variable | value; default | effect |", "|---|---|---|", *rows])
