"""Seconds from a fresh process to its first train step: with nothing compiled yet, and with the compilation cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.bench.child import run_child
from resnet_jax.bench.workload import Workload
from resnet_jax.errors import UsageError

COLD = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


def compile_models(
    workloads: Sequence[Workload], *, warm: bool = True, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure the compilation of each train step, each in its own process.

    Args:
        workloads: what to compile; ratios are relative to the first.
        warm: also fill a compilation cache, and measure the first step of a process that uses it.
        say: called with progress messages.

    Returns:
        ``models`` (one object each: trace, compile and first-step seconds, temporaries), ``compile_ratio`` (compile
        seconds relative to the first model) and ``total_ratio`` (including tracing).

    Raises:
        UsageError: if there is nothing to compile, or a network cannot be built.
        RunError: if a process failed.
    """
    if not workloads:
        raise UsageError("name at least one network to compile")
    for workload in workloads:
        workload.network()
    rows = []
    for workload in workloads:
        say(f"{workload.model.name}: compiling, cold")
        row = _first_step(workload, COLD)
        row |= {"cold_first_step_seconds": row.pop("first_step_seconds"), "warm_first_step_seconds": None}
        if warm:
            row |= _warm(workload, say)
        rows.append(
            {"model": workload.model.name, "batch": workload.batch, "image_size": workload.input_shape[0], **row}
        )
    first = rows[0]
    total = [row["trace_seconds"] + row["compile_seconds"] for row in rows]
    return {
        "models": rows,
        "compile_ratio": [row["compile_seconds"] / first["compile_seconds"] for row in rows],
        "total_ratio": [seconds / total[0] for seconds in total],
    }


def _warm(workload: Workload, say: Callable[[str], None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        cached = {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(Path(folder)),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        say(f"{workload.model.name}: filling a compilation cache, then compiling from it")
        _first_step(workload, cached)
        row = _first_step(workload, cached)
    return {"warm_first_step_seconds": row["first_step_seconds"], "cache_hits": row["cache_hits"]}


def _first_step(workload: Workload, environment: dict[str, str]) -> dict[str, Any]:
    return run_child("first_step", workload.to_dict(), environment)
