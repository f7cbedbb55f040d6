"""Plans for chips that are not at hand: the step compiled for them in a separate process, and conclusions from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from resnet_jax.bench.child import run_child
from resnet_jax.bench.chips.compiled import Request
from resnet_jax.bench.chips.described import ENVIRONMENT, require_compiler
from resnet_jax.bench.chips.table import GIB, TAKEN_OF_A_GPU, parse_chips
from resnet_jax.training.placement import fsdp_size

NOTE = (
    "a bound, not a forecast: no step of this program is faster on these chips; units that are not filled, bytes read "
    "again, slow chips and the host come on top"
)
#: Side up to which images are cropped from padded ones; larger ones are resized on the host.
SMALL = 64
#: Maximum number of compilations in a search for the largest batch.
MOST = 12


def usual_augment(side: int, dims: int) -> tuple[str, ...]:
    """Return the transforms that a recipe for images of this size has.

    >>> usual_augment(32, 2), usual_augment(224, 2), usual_augment(64, 3)
    (('random_crop(4)', 'flip'), ('random_resized_crop', 'flip'), ())
    """
    if dims != 2:
        return ()
    return (f"random_crop({max(side // 8, 1)})" if side <= SMALL else "random_resized_crop", "flip")


def plan_chips(request: Request, *, text: str | None = None) -> dict[str, Any]:
    """Compile the step of a request for its chips.

    Args:
        request: what to compile, and for what.
        text: file for the text of the compiled program.

    Returns:
        ``fits``; ``memory`` of one device in bytes (arguments, outputs, aliased, temporaries, code, peak) and what the
        ``arguments`` contain; ``program``, the figures of :meth:`resnet_jax.bench.chips.program.Program.summary`;
        ``bound``, in seconds, from :func:`resnet_jax.bench.chips.bound.bound`; ``compiler``, its own report;
        ``versions``. If the compiler rejects a program because it does not fit, ``refused`` says why.

    Raises:
        UsageError: for incompatible choices, or if the compiler for these chips is not installed.
        RunError: if it cannot be compiled.
    """
    chips = parse_chips(request.chips)
    require_compiler(chips.chip.platform)
    workload = request.workload
    workload.network()
    fsdp_size(chips.count, workload.placement, workload.fsdp_devices)
    found = run_child("chips", {**request.to_dict(), "text": text}, ENVIRONMENT)
    return {
        "model": workload.model.name,
        "mode": workload.mode,
        "chips": chips.text,
        "count": chips.count,
        "batch": workload.batch,
        "batch_per_chip": workload.batch // chips.count,
        "image_size": workload.input_shape[0],
        "placement": workload.placement,
        "fsdp_devices": workload.fsdp_devices,
        "accumulate": workload.accumulate,
        "augment": list(request.augment),
        "memory_of_chip": chips.chip.memory,
        "memory_by_default": int(TAKEN_OF_A_GPU * chips.chip.memory) if chips.chip.platform == "gpu" else None,
        "sources": list(chips.chip.sources),
        "assumptions": list(chips.chip.assumptions),
        **found,
        "note": NOTE,
    }


def largest_batch(
    request: Request, first: dict[str, Any], said: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Search for the largest batch per chip that fits; see :func:`search`.

    Args:
        request: a request with any batch.
        first: its plan.
        said: called before each compilation.
    """
    chips = parse_chips(request.chips)

    def plan_of(batch: int) -> dict[str, Any]:
        if batch * chips.count == request.workload.batch:
            return first
        workload = dataclasses.replace(request.workload, batch=batch * chips.count)
        return plan_chips(dataclasses.replace(request, workload=workload))

    start = request.workload.batch // chips.count
    return search(plan_of, start, chips.chip.memory, unit=request.workload.accumulate, said=said)


def search(
    plan_of: Callable[[int], dict[str, Any]],
    start: int,
    memory: int,
    *,
    unit: int = 1,
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Search for the largest batch per chip that fits, by compiling.

    The first guesses extrapolate linearly from the memory of two batches; then the interval between what fits and what
    does not is halved, down to a multiple of 8 or about a sixteenth.

    Args:
        plan_of: batch -> ``fits``, and ``memory`` or ``refused``.
        start: the first batch.
        memory: memory of a chip in bytes.
        unit: batches are multiples of this.
        said: called before each compilation.

    Returns:
        ``batch_per_chip`` (0: not even the smallest), ``exact``: whether the next larger batch was tested and does not
        fit, and ``tried``: fit and peak memory of each batch.
    """
    tried: dict[int, dict[str, Any]] = {}
    batch: int | None = start
    while batch is not None and batch >= unit and batch not in tried and len(tried) < MOST:
        found = plan_of(batch)
        peak = found["memory"]["peak"] if "memory" in found else None
        tried[batch] = {"batch_per_chip": batch, "fits": found["fits"], "peak": peak}
        size = f"{peak / GIB:.2f} GiB" if peak else found.get("refused", "")
        said(f"batch {batch} per chip: {'fits' if found['fits'] else 'does not fit'}, {size}")
        fitting = [tried[each] for each in sorted(tried) if tried[each]["fits"]]
        over = min((each for each, result in tried.items() if not result["fits"]), default=None)
        batch = _guess(fitting, over, memory, unit)
    best = max((each for each, result in tried.items() if result["fits"]), default=0)
    over = min((each for each, result in tried.items() if not result["fits"]), default=None)
    exact = over is not None and over - best <= _step(best, unit)
    return {"batch_per_chip": best, "exact": exact, "tried": [tried[each] for each in sorted(tried)]}


def _step(batch: int, unit: int) -> int:
    """Return the smallest relevant difference between batches: 8, or a power of 2 near a sixteenth.

    >>> _step(20, 1), _step(100, 1), _step(500, 1), _step(500, 3)
    (8, 8, 16, 48)
    """
    step = 8
    while step * 32 <= batch:
        step *= 2
    return step * unit


def _guess(fitting: list[dict[str, Any]], over: int | None, memory: int, unit: int) -> int | None:
    """Return the batch to try next, or None once the largest is known."""
    if not fitting:
        return None if over is None or over <= unit else max(over // 2 // unit * unit, unit)
    last = fitting[-1]["batch_per_chip"]
    step = _step(last, unit)
    if over is not None and over - last <= step:
        return None
    if len(fitting) == 1 or (over is not None and fitting[-1]["peak"] > 0.9 * memory):
        guess = 2 * last if over is None else (last + over) // 2
    else:
        one, two = fitting[-2], fitting[-1]
        slope = (two["peak"] - one["peak"]) / (two["batch_per_chip"] - one["batch_per_chip"])
        guess = int(last + (0.99 * memory - two["peak"]) / slope) if slope > 0 else 2 * last
        guess = min(guess, 4 * last)
    guess = max(guess // step * step, last + step)
    return guess if over is None or guess < over else last + max((over - last) // 2 // step * step, step)
