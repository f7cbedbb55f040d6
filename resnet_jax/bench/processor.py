"""The processor that a figure was measured on: its name, its instruction sets, and the available cores."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from resnet_jax.errors import UsageError
from resnet_jax.runtime.cache import cache_directory
from resnet_jax.runtime.cxx.library import find_compiler
from resnet_jax.runtime.files import write_whole

#: Instruction sets that determine the speed of a network, by their names in Linux; from the narrowest on.
INSTRUCTIONS = {
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
    "avx_vnni": "vnni",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "sve": "sve",
    "bf16": "bf16",
    "i8mm": "i8mm",
}
CPUINFO = Path("/proc/cpuinfo")
#: What a comparison is restricted to: everything that the processor has, or its AVX2.
InstructionsChoice = Literal["native", "avx2"]
#: A compiler for which the native processor has AVX2 and no AVX-512.
AVX2_COMPILER = """#!{python}
import os, sys
words = ["-march=x86-64-v3" if word == "-march=native" else word for word in sys.argv[1:]]
os.execv({compiler!r}, [{compiler!r}, *words])
"""


def held_to(instructions: InstructionsChoice) -> dict[str, str]:
    """Return the environment for processes that use no other instructions.

    It restricts our C++ (which then has a cache of its own), XLA, oneDNN, PyTorch, what torch.compile generates, and
    OpenVINO's convolutions (oneDNN's), but not OpenVINO's own kernels (pooling, additions). ONNX Runtime cannot be
    restricted.

    Raises:
        UsageError: if the processor has no AVX2.
    """
    if instructions == "native":
        return {}
    if "avx2" not in (describe_processor()["instructions"] or ()):
        raise UsageError("this processor does not say that it has AVX2: leave --isa out")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa=AVX2".strip()
    held = {"XLA_FLAGS": flags, "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    folder, compiler = cache_directory() / "avx2", find_compiler()
    held["RESNET_JAX_CACHE"] = str(folder)
    if compiler is not None:
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "compiler"
        write_whole(script, AVX2_COMPILER.format(python=sys.executable, compiler=compiler))
        script.chmod(0o700)
        held["CXX"] = str(script)
    return held


def describe_processor(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return ``name``, ``instructions`` (a list; None if not reported) and ``affinity`` (core numbers).

    Environment variables that keep a runtime from some of them (``XLA_FLAGS``, ``ATEN_CPU_CAPABILITY``,
    ``ONEDNN_MAX_CPU_ISA``, ``CXX``) are in ``limited``.

    Args:
        environment: environment of the measured processes.
    """
    name, instructions = platform.processor() or platform.machine(), None
    if CPUINFO.exists():
        lines = [line.partition(":") for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()]
        said = {key.strip(): value.strip() for key, _, value in lines}
        name = said.get("model name", name)
        flags = set(said.get("flags", said.get("Features", "")).split())
        instructions = [ours for theirs, ours in INSTRUCTIONS.items() if theirs in flags]
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    limits = ("XLA_FLAGS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CXX")
    limited = {variable: environment[variable] for variable in limits if environment.get(variable)}
    return {"name": name, "instructions": instructions, "affinity": affinity, "limited": limited}


def processor_line(processor: dict[str, Any]) -> str:
    """Return the result of :func:`describe_processor` in one line.

    >>> found = {"name": "a CPU", "instructions": ["avx2", "fma"], "affinity": [0, 1, 2, 5], "limited": {}}
    >>> processor_line(found)
    'a CPU with avx2 fma; may use cores 0-2, 5'
    """
    instructions = processor["instructions"]
    has = "" if instructions is None else f" with {' '.join(instructions) or 'no known vector instructions'}"
    cores = "" if processor["affinity"] is None else f"; may use cores {_ranges(processor['affinity'])}"
    limited = "".join(f"; {name}={value}" for name, value in processor["limited"].items())
    return f"{processor['name']}{has}{cores}{limited}"


def _ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
