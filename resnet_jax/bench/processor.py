"""The processor that a figure was measured on: its name, what it multiplies with, and the cores that may be used."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

#: Instruction sets that decide how fast a network is, by what Linux calls them; from the narrowest on.
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


def describe_processor() -> dict[str, Any]:
    """Return ``name``, ``instructions`` (a list; None where the system does not say) and ``affinity`` (core numbers).

    Environment variables that keep a runtime from some of them (``XLA_FLAGS``, ``ATEN_CPU_CAPABILITY``,
    ``ONEDNN_MAX_CPU_ISA``, ``CXX``) are in ``limited``.
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
    limited = {variable: os.environ[variable] for variable in limits if os.environ.get(variable)}
    return {"name": name, "instructions": instructions, "affinity": affinity, "limited": limited}


def processor_line(processor: dict[str, Any]) -> str:
    """Return what :func:`describe_processor` found, in one line.

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
