"""Diagnosis of a rejected update: the step, its examples, and a profile through the depth.

A batch is a pure function of the step, so it can be made again, and so can the state before it: the steps since the
newest checkpoint are repeated. ``fault.json`` contains the findings, the message one sentence of them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.instrument.extremes import BACKWARD, FORWARD
from resnet_jax.report.views import one_line
from resnet_jax.runs.build import RunComponents
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.fault_profile import Profile, profile_step
from resnet_jax.runs.finetune import start_state
from resnet_jax.runs.job import Job
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.processes import count, from_main, is_main
from resnet_jax.training.diverged import Diverged
from resnet_jax.training.feeds import Feed, host_batch
from resnet_jax.training.members import is_population, restore
from resnet_jax.training.population import member
from resnet_jax.training.state import TrainState

#: Seconds that may be spent on recomputing the state before the step; otherwise the current state is examined.
PATIENCE = 60.0
#: The maximum number of names in a sentence.
FEW = 3
_BOOKKEEPING = ("mask", "index", "epoch")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What was found.

    Attributes:
        kind: ``input``, ``label``, ``parameters``, ``preparation``, ``activation``, ``loss``, ``gradient``,
            ``statistics``, ``update``, or ``none`` if nothing is found.
        where: block, parameter or array; empty for none.
        said: the same in one sentence.
        rows: rows of the batch with the faulty examples; empty if no example is at fault.
    """

    kind: str
    where: str
    said: str
    rows: tuple[int, ...] = ()


class Broken(Protocol):
    """What is needed of a failed training: a :class:`~resnet_jax.runs.job.Job`, or a cell of an ablation."""

    @property
    def config(self) -> RunConfig: ...
    @property
    def images(self) -> RunData: ...
    @property
    def parts(self) -> RunComponents: ...
    @property
    def run(self) -> RunDirectory: ...
    @property
    def feed(self) -> Feed: ...
    def say(self, text: str, /) -> None: ...


def explain_divergence(job: Job, error: Diverged) -> None:
    """Find the cause, write ``fault.json``, and add a sentence to the error. If this fails, it is only reported."""
    if said := _explain(job, error, lambda: _state_before(job, error)):
        error.add(f"{said}. Details are in {job.run.fault}")


def explain_member(job: Broken, error: Diverged) -> str:
    """Write ``fault.json`` for a population member, from the current state; return the finding in one sentence."""
    return _explain(job, error, lambda: _state_at_hand(error))


def _explain(job: Broken, error: Diverged, find: Callable[[], tuple[TrainState, str]]) -> str:
    try:
        job.say(f"Step {error.step:,} is repeated to find the cause ...")
        report = make_report(job, error, *find())
    except Exception as failed:  # a memory that is full, perhaps; the divergence is what matters
        job.say(f"the cause could not be determined: {one_line(failed)}")
        return ""
    finally:
        error.state = None
    if is_main():
        write_whole(job.run.fault, json.dumps(report, indent=1) + "\n")
    return report["said"]


def make_report(job: Broken, error: Diverged, state: TrainState, whose: str) -> dict[str, Any]:
    """Return the contents of ``fault.json``.

    Args:
        job: the run.
        error: the error that ended it.
        state: the state before the step, if there is one.
        whose: which state that is.
    """
    batch = host_batch(job.feed, error.step - 1)
    if error.member is not None and is_population(state):
        batch, state = {name: array[error.member] for name, array in batch.items()}, member(state, error.member)
    fault, profile = find_fault(job, error, batch, state)
    examples, rows = _examples(job, batch), [int(row) for row in fault.rows]
    named = ", ".join(examples[row]["example"] for row in rows[:FEW] if row < len(examples))
    more = f" and {len(rows) - FEW} more" if len(rows) > FEW else ""
    return {
        "step": error.step,
        **({} if error.member is None else {"member": error.member}),
        "loss": _plain(error.loss),
        "grad_norm": _plain(error.grad_norm),
        **({} if error.loss_scale is None else {"loss_scale": error.loss_scale}),
        "rejected_in_a_row": error.tolerated + 1,
        "state": whose,
        "kind": fault.kind,
        "where": fault.where,
        "said": fault.said + (f": {named}{more}" if named else ""),
        "rows": rows,
        **({} if profile is None else _profile_rows(profile)),
        "examples": examples,
    }


def find_fault(
    job: Broken, error: Diverged, batch: Mapping[str, np.ndarray], state: TrainState
) -> tuple[Fault, Profile | None]:
    """Return the first fault, and the profile if the network was examined.

    Args:
        job: the run.
        error: the error that ended it.
        batch: the batch of the step, on the host.
        state: the state before it.
    """
    parts = job.parts
    if (fault := _of_batch(parts, batch)) is not None and count() == 1:
        return fault, None
    state = state.replace(step=jnp.full_like(state.step, error.step - 1))
    profile = profile_step(
        parts.model,
        parts.task,
        parts.tx,
        state,
        parts.placement.shard(dict(batch)),
        preprocess=parts.preprocess,
        accumulate=job.config.train.accumulate,
    )
    return fault or _of_profile(profile, error), profile


def _of_batch(parts: RunComponents, batch: Mapping[str, np.ndarray]) -> Fault | None:
    """Return what is wrong with the batch as read."""
    for name, array in batch.items():
        if name not in _BOOKKEEPING and np.issubdtype(array.dtype, np.inexact):
            bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
            if bad.any():
                kind = "label" if name == "label" else "input"
                rows = tuple(np.flatnonzero(bad).tolist())
                return Fault(kind, name, f"the {name} of {len(rows)} of its {len(array)} examples is not finite", rows)
    try:
        parts.task.check(dict(batch))
    except UsageError as refused:
        return Fault("label", "label", f"a label cannot be: {refused}")
    return None


def _of_profile(profile: Profile, error: Diverged) -> Fault:
    """Return what is wrong in the network, in the order of computation."""
    if bad := _bad(profile.before):
        return Fault("parameters", bad[0], f"before the step already, {_few(bad)} is not finite")
    if profile.bad_inputs.any():
        rows = tuple(np.flatnonzero(profile.bad_inputs).tolist())
        said = f"after augmentation and normalization (data.mean, data.std) {len(rows)} of its inputs are not finite"
        return Fault("preparation", "image", said, rows)
    points = [point for point in FORWARD if point in profile.activations]
    for block, name in enumerate(profile.names):
        for point in points:
            largest, bad_values = profile.activations[point][block]
            if bad_values:
                where = "the stem" if block == 0 and point == "input" else f"{name} (its {point})"
                given = profile.inputs[0] if where == "the stem" else profile.activations["input"][block, 0]
                said = f"the first activation that is not finite is in {where}: {bad_values:,.0f} values"
                said += f"; what it is given is at most {given:.3g}"
                return Fault("activation", "stem" if where == "the stem" else name, said)
    if profile.outputs[1]:
        said = f"all blocks are finite, and {profile.outputs[1]:,.0f} of the network's outputs are not: see its head"
        return Fault("activation", "head", said)
    bad_losses = ~np.isfinite(profile.losses)
    if bad_losses.any():
        rows = tuple(np.flatnonzero(bad_losses).tolist())
        largest = f"the largest output is {profile.outputs[0]:.3g}"
        return Fault("loss", "loss", f"all activations are finite, the loss of {len(rows)} examples is not ({largest})",
                     rows)  # fmt: skip
    with np.errstate(over="ignore"):
        mean = np.sum(profile.losses, dtype=profile.losses.dtype)
    if not np.isfinite(mean):
        said = f"the loss of every example is finite, up to {profile.losses.max():.3g}, and their sum is not"
        return Fault("loss", "loss", said)
    for block, name in reversed(list(enumerate(profile.names))):
        for point in BACKWARD:
            if profile.gradients[point][block][1]:
                after = block == len(profile.names) - 1 and point == "output"
                where = "head" if after else name
                said = f"all activations and the loss are finite; the first gradient that is not is that of {where}"
                return Fault("gradient", where, said)
    if bad := sorted(_bad(profile.parameters), key=_from_output):
        return Fault("gradient", bad[0], f"the first gradient of a parameter that is not finite is that of {_few(bad)}")
    if not math.isfinite(error.grad_norm):
        largest = max(profile.parameters, key=lambda name: profile.parameters[name][0])
        said = f"every gradient is finite, their norm is not; the largest, {profile.parameters[largest][0]:.3g}, is in"
        return Fault("gradient", largest, f"{said} {largest}")
    if bad := _bad(profile.statistics):
        return Fault("statistics", bad[0], f"the running statistic {_few(bad)} is not finite after the step")
    if bad := _bad(profile.update):
        return Fault("update", bad[0], f"loss and gradients are finite, {_few(bad)} is not after the update")
    return Fault("none", "", "repeated, everything in it is finite")


def _state_before(job: Job, error: Diverged) -> tuple[TrainState, str]:
    """Return the state before the step, and which it is: recomputed from the newest checkpoint if it has moved on."""
    first = error.step - 1
    if error.made_after == 0 or is_population(error.state):
        return _state_at_hand(error)
    job.checkpoints.close()
    if job.checkpoints.steps("last"):
        state, _ = restore(job.checkpoints, "last", job.parts.new_state())
    elif job.source is not None:
        state = start_state(job.config, job.source, job.parts)
    else:
        state = job.parts.new_state()
    began = time.monotonic()
    start = int(state.step)
    feed: Feed = job.feed
    calls = feed.calls(start, first)
    try:
        for call in calls if start < first else ():
            state, _ = call.run(state)
            if from_main(time.monotonic() - began > PATIENCE):
                return _state_at_hand(error)
    finally:
        calls.close()
    return state, f"as before the step, made again from step {start}"


def _state_at_hand(error: Diverged) -> tuple[TrainState, str]:
    """Return the current state, and which it is."""
    return error.state, f"{error.made_after} updates after it" if error.made_after else "as before the step"


def _examples(job: Broken, batch: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return row, position, epoch and name of every example of the global batch."""
    index, epoch = np.asarray(batch["index"]), np.asarray(batch["epoch"])
    if count() > 1:
        from jax.experimental import multihost_utils

        index, epoch = (np.asarray(multihost_utils.process_allgather(part)).reshape(-1) for part in (index, epoch))
    source = job.images.splits.train
    return [
        {"row": row, "index": int(at), "epoch": int(passes), "example": _described(source, int(at))}
        for row, (at, passes) in enumerate(zip(index, epoch, strict=True))
    ]


def _described(source: Any, index: int) -> str:
    describe = getattr(source, "describe", None)
    return f"example {index}" if describe is None else str(describe(index))


def _profile_rows(profile: Profile) -> dict[str, Any]:
    """Return the profile as plain rows: for each block, and for parameters with non-finite values."""

    def pair(values: np.ndarray) -> dict[str, float]:
        return {"largest": float(values[0]), "nonfinite": int(values[1])}

    blocks = [
        {
            "block": name,
            "stage": profile.stages[number],
            **{point: pair(rows[number]) for point, rows in profile.activations.items()},
            "gradient": {point: pair(rows[number]) for point, rows in profile.gradients.items()},
        }
        for number, name in enumerate(profile.names)
    ]
    tables = {"parameter_gradients": profile.parameters, "statistics_after": profile.statistics,
              "parameters_after": profile.update}  # fmt: skip
    return {
        "input": pair(profile.inputs),
        "blocks": blocks,
        "outputs": pair(profile.outputs),
        **{name: {key: pair(values) for key, values in table.items() if values[1]} for name, table in tables.items()},
    }


def _bad(table: Mapping[str, np.ndarray]) -> list[str]:
    return [name for name, pair in table.items() if pair[1]]


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _from_output(name: str) -> tuple[int, ...]:
    """Return a sort key for parameters, from the output to the input."""
    if name.startswith("stem"):
        return (2,)
    if not name.startswith("stage"):
        return (0,)
    digits = "".join(c if c.isdigit() else " " for c in "/".join(name.split("/")[:2])).split()
    return (1, *(-int(number) for number in digits))


def _plain(value: float) -> float | str:
    """Return a number for JSON: non-finite values as text."""
    return value if math.isfinite(value) else str(value)
