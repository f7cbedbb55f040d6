"""The loop around the step of a population: feed, evaluate, save, stop; who diverges is written down, not raised.

It is :func:`resnet_jax.training.loop.train` for K runs in lockstep. They share the plan and the clock; early stopping
is refused, as runs of different lengths have no common step.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.loop import IN_FLIGHT, Interrupted, Plan
from resnet_jax.training.placement import Devices, as_placement, shard_batch
from resnet_jax.training.population import BATCH_AXIS, population_size
from resnet_jax.training.progress import EpochSums
from resnet_jax.training.state import TrainState

if TYPE_CHECKING:  # Orbax is slow to import, and the loop runs without it
    from resnet_jax.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class PopulationProgress:
    """Where a population stands, apart from its arrays; travels with the checkpoint as JSON.

    Attributes:
        epoch_sums: of each member, over the epoch under way.
        diverged: of each member, the step (1-based) at which its first update was rejected, or None. That is its
            result; it is computed further along with the others and counts no more.
        seconds: time spent on training steps, compilation and evaluation left out, over all sessions.
        finished: why the population is done (``"steps"`` or ``"all diverged"``), or None.
    """

    epoch_sums: tuple[EpochSums, ...]
    diverged: tuple[int | None, ...]
    seconds: float = 0.0
    finished: str | None = None

    @classmethod
    def start(cls, members: int) -> PopulationProgress:
        """Return the progress of a population that has not begun."""
        return cls((EpochSums(),) * members, (None,) * members)

    @property
    def running(self) -> list[int]:
        """The members that have not diverged."""
        return [index for index, step in enumerate(self.diverged) if step is None]

    def to_json(self) -> dict[str, Any]:
        """Return nested dictionaries and lists of plain numbers."""
        return {
            "epoch_sums": [dataclasses.asdict(sums) for sums in self.epoch_sums],
            "diverged": list(self.diverged),
            "seconds": self.seconds,
            "finished": self.finished,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PopulationProgress:
        """Invert :meth:`to_json`."""
        sums = tuple(EpochSums(**entry) for entry in data["epoch_sums"])
        return cls(sums, tuple(data["diverged"]), data["seconds"], data["finished"])


@runtime_checkable
class PopulationObserver(Protocol):
    """Somebody who is told how the members fare. Steps are 1-based: updates done."""

    def on_epoch(self, rows: Mapping[int, dict[str, float]]) -> None:
        """Hear of one epoch: of every member still running its step, epoch, training means and validation."""
        ...

    def on_divergence(self, index: int, row: dict[str, float]) -> None:
        """Hear that a member had its first update rejected: step, epoch, loss and grad_norm."""
        ...


def train_population(
    states: TrainState,
    *,
    plan: Plan,
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Callable[[int, int], Iterator[Mapping[str, np.ndarray]]],
    mesh: Devices,
    evaluate: Callable[[TrainState], Sequence[Evaluation]] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: PopulationProgress | None = None,
    observers: Sequence[PopulationObserver] = (),
    stop: StopRequest | None = None,
) -> tuple[TrainState, PopulationProgress]:
    """Train until the plan is done or every member has diverged, from wherever the population stands.

    Args:
        states: with the axis of members; donated to the first step.
        plan: how long; without early stopping.
        step: compiled, from :func:`~resnet_jax.training.population.compile_population_step`.
        batches: ``(start, stop) -> `` host batches of those steps, (members, examples, ...).
        mesh: the devices.
        evaluate: validation of all members; None for none.
        checkpoints: where to save ``last``; None for nowhere.
        progress: as restored with the states.
        observers: told of every epoch and every divergence.
        stop: looked at between steps.

    Returns:
        The final states and progress.

    Raises:
        UsageError: the plan has early stopping.
        Interrupted: ``stop`` was requested; the population is saved.
    """
    if plan.early_stopping is not None:
        raise UsageError("a population trains in lockstep: early stopping would stop its members at different steps")
    session = _Session(plan, progress or PopulationProgress.start(population_size(states)), observers)
    start = int(states.step[0])
    if start >= plan.total_steps or session.progress.finished:
        return states, session.progress
    feed = batches(start, plan.total_steps)
    try:
        for number, batch in enumerate(feed, start + 1):
            states, metrics = step(states, shard_batch(batch, mesh, BATCH_AXIS))
            session.sent(number, metrics)
            last = number == plan.total_steps
            if last or number % plan.steps_per_epoch == 0:
                session.drain()
                due = last or -(-number // plan.steps_per_epoch) % plan.eval_every == 0
                session.end_epoch(number, evaluate(states) if due and evaluate is not None else None)
                if due and checkpoints is not None:
                    save_population(checkpoints, states, session.progress)
                session.resume_clock()
            if session.progress.finished:
                break
            if stop:
                session.drain()
                if checkpoints is not None:
                    save_population(checkpoints, states, session.progress)
                raise Interrupted(number, stop)
    finally:
        close = getattr(feed, "close", None)
        if close is not None:
            close()
    session.drain()
    return states, session.progress


def save_population(checkpoints: Checkpoints, states: TrainState, progress: PopulationProgress) -> None:
    """Start writing the population as ``last``, under the step that its members share."""
    checkpoints.save("last", states.replace(step=states.step[0]), progress.to_json(), axis=1)


def restore_population(
    checkpoints: Checkpoints, like: TrainState, mesh: Devices
) -> tuple[TrainState, PopulationProgress]:
    """Load what :func:`save_population` wrote.

    Args:
        checkpoints: of this population.
        like: a population of the same members on ``mesh``.
        mesh: the devices.

    Raises:
        RunError: there is no checkpoint, or it does not fit.
    """
    single = like.replace(step=jax.device_put(like.step[0], as_placement(mesh).outputs))
    states, progress = checkpoints.restore("last", single, axis=1)
    steps = jnp.broadcast_to(states.step, (population_size(like),))
    return states.replace(step=jax.device_put(steps, as_placement(mesh).outputs)), PopulationProgress.from_json(
        progress
    )


class _Session:
    """The book-keeping of one call of :func:`train_population`."""

    def __init__(self, plan: Plan, progress: PopulationProgress, observers: Sequence[PopulationObserver]):
        self.plan, self.progress, self.observers = plan, progress, observers
        self._in_flight: deque[tuple[int, dict[str, jax.Array]]] = deque()
        self._clock: float | None = None  # None until the first step is done: compilation is not timed

    def sent(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of a step just dispatched, and read those that are due."""
        self._in_flight.append((step, metrics))
        if self._clock is None:
            self._read_oldest()
        while len(self._in_flight) > IN_FLIGHT:
            self._read_oldest()

    def drain(self) -> None:
        """Read everything that is still on its way."""
        while self._in_flight:
            self._read_oldest()

    def resume_clock(self) -> None:
        """Leave what happened since the last step (evaluation, saving) out of the training time."""
        self._clock = time.perf_counter()

    def end_epoch(self, step: int, results: Sequence[Evaluation] | None) -> None:
        """Report the epoch of every member that has not diverged."""
        rows = {}
        for index in self.progress.running:
            rows[index] = {"step": step, "epoch": step / self.plan.steps_per_epoch}
            rows[index] |= self.progress.epoch_sums[index].means()
            if results is not None:
                rows[index] |= {"val_loss": results[index].loss, "val_accuracy": results[index].accuracy}
        sums = (EpochSums(),) * len(self.progress.epoch_sums)
        finished = self.progress.finished or ("steps" if step == self.plan.total_steps else None)
        self.progress = dataclasses.replace(self.progress, epoch_sums=sums, finished=finished)
        for observer in self.observers:
            observer.on_epoch(rows)

    def _read_oldest(self) -> None:
        step, arrays = self._in_flight.popleft()
        host = {name: np.asarray(value, np.float64) for name, value in jax.device_get(arrays).items()}
        now = time.perf_counter()
        elapsed = 0.0 if self._clock is None else now - self._clock
        self._clock = now
        sums, diverged = list(self.progress.epoch_sums), list(self.progress.diverged)
        for index in self.progress.running:
            metrics = {name: float(value[index]) for name, value in host.items()}
            if metrics["rejected"]:
                diverged[index] = step
                row = {"step": step, "epoch": step / self.plan.steps_per_epoch}
                row |= {"loss": metrics["loss"], "grad_norm": metrics["grad_norm"]}
                for observer in self.observers:
                    observer.on_divergence(index, row)
            elif not metrics.get("skipped"):
                sums[index] = sums[index].add(metrics)
        self.progress = PopulationProgress(
            tuple(sums),
            tuple(diverged),
            self.progress.seconds + elapsed,
            self.progress.finished if None in diverged else "all diverged",
        )
