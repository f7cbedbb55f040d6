"""The progress of a run apart from its arrays: plain numbers that are stored in the checkpoint as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from resnet_jax.training.early_stopping import EarlyStoppingState, Mode

#: Metrics of a train step that are not sums of the task.
STEP_METRICS = frozenset(
    {"loss", "count", "grad_norm", "rejected", "loss_scale", "skipped", "block_grad_norm", "task_cosine"}
)


class Reporting(Protocol):
    """What the loop needs from a task (:class:`resnet_jax.tasks.task.Task`).

    Attributes:
        headline: the validation metric that decides which state is the best and when to stop early.
        mode: whether larger or smaller is better.
    """

    headline: ClassVar[str]
    mode: ClassVar[Mode]

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return the metrics for sums over ``count`` examples."""
        ...


@dataclasses.dataclass(frozen=True)
class EpochSums:
    """Sums over the steps of the current epoch.

    Attributes:
        loss: sum of the steps' mean losses times their numbers of examples.
        examples: number of examples trained on.
        sums: sums of what the task counts in training, such as ``correct``.
    """

    loss: float = 0.0
    examples: float = 0.0
    sums: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def add(self, metrics: Mapping[str, float]) -> EpochSums:
        """Add one step's metrics."""
        count = metrics["count"]
        sums = {name: self.sums.get(name, 0.0) + value for name, value in task_sums(metrics).items()}
        return EpochSums(self.loss + metrics["loss"] * count, self.examples + count, sums)

    def skip(self, metrics: Mapping[str, float]) -> EpochSums:
        """Record a step that changed nothing: its sums are not added."""
        return EpochSums(self.loss, self.examples, dict.fromkeys(task_sums(metrics), 0.0) | dict(self.sums))

    def means(self, task: Reporting) -> dict[str, float]:
        """Return the mean ``loss`` and the task's metrics; NaN if there were no examples."""
        count = self.examples or math.nan
        return {"loss": self.loss / count, **task.train_metrics(self.sums, count)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EpochSums:
        """Read sums, including the former format: ``correct`` beside the others."""
        sums = data.get("sums", {"correct": data["correct"]} if "correct" in data else {})
        return cls(data["loss"], data["examples"], dict(sums))


def task_sums(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a train step that are sums of the task."""
    return {name: value for name, value in metrics.items() if name not in STEP_METRICS}


@dataclasses.dataclass(frozen=True)
class MemberProgress:
    """The progress of one member; a single run counts as one.

    Attributes:
        epoch_sums: sums over the current epoch.
        watch: the validation results so far: best, when, and how long ago.
        best_step: number of updates done at the best validation; None before.
        skipped: number of steps whose gradients overflowed under the loss scale, and which changed nothing.
        rejected: number of consecutive rejected updates up to now.
        finished: why it stopped while others continue (``"diverged"`` or ``"early stopping"``), or None.
        finished_at: the step after which it stopped, or None.
    """

    epoch_sums: EpochSums = dataclasses.field(default_factory=EpochSums)
    watch: EarlyStoppingState = dataclasses.field(default_factory=EarlyStoppingState)
    best_step: int | None = None
    skipped: int = 0
    rejected: int = 0
    finished: str | None = None
    finished_at: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MemberProgress:
        """Invert ``dataclasses.asdict``."""
        inner = {
            "epoch_sums": EpochSums.from_json(data["epoch_sums"]),
            "watch": EarlyStoppingState(**data["watch"]),
        }
        return cls(**{**data, **inner})


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop knows besides the state. A resumed run continues from it as if it had not stopped.

    Attributes:
        members: the progress of each member; one for a single run.
        seconds: time spent on training steps over all sessions, excluding compilation and evaluation.
        timed_examples: number of examples those seconds were spent on, over all members.
        elapsed: wall-clock time over all sessions, everything included.
        finished: why the run is over (``"steps"``, ``"early stopping"``, ``"time limit"`` or ``"all diverged"``), or
            None.
        records: how far each file of rows had come, file name -> plain values that its writer understands
            (:meth:`~resnet_jax.training.observers.Observer.position`). Empty in older checkpoints.
        losses: the most recent losses, if spikes are detected (:mod:`resnet_jax.training.spikes`).
        rollbacks: the updates after which the order of the examples changed, each after a spike.
    """

    members: tuple[MemberProgress, ...] = (MemberProgress(),)
    seconds: float = 0.0
    timed_examples: float = 0.0
    elapsed: float = 0.0
    finished: str | None = None
    records: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    losses: tuple[float, ...] = ()
    rollbacks: tuple[int, ...] = ()

    @classmethod
    def start(cls, members: int = 1) -> Progress:
        """Return the progress of this many members that have not begun."""
        return cls((MemberProgress(),) * members)

    @property
    def running(self) -> list[int]:
        """The members that have neither diverged nor stopped."""
        return [index for index, member in enumerate(self.members) if member.finished is None]

    @property
    def diverged(self) -> tuple[int | None, ...]:
        """For each member, the step at which it diverged, or None. That is its result."""
        return tuple(one.finished_at if one.finished == "diverged" else None for one in self.members)

    @property
    def images_per_second(self) -> float | None:
        """Training throughput, or None before anything was timed."""
        return self.timed_examples / self.seconds if self.seconds > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return nested dictionaries and lists of plain numbers."""
        return {**dataclasses.asdict(self), "members": [dataclasses.asdict(member) for member in self.members]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Progress:
        """Invert :meth:`to_json`; also reads the older, separate formats of runs and populations."""
        if "members" in data:
            own = {name: tuple(data.get(name, ())) for name in ("losses", "rollbacks")}
            return cls(**{**data, **own, "members": tuple(MemberProgress.from_json(one) for one in data["members"])})
        rest = {"seconds": data.get("seconds", 0.0), "finished": data.get("finished")}
        if isinstance(data["epoch_sums"], list):
            members = tuple(
                MemberProgress(EpochSums.from_json(sums), finished=None if at is None else "diverged", finished_at=at)
                for sums, at in zip(data["epoch_sums"], data["diverged"], strict=True)
            )
            return cls(members, **rest)
        member = MemberProgress(
            EpochSums.from_json(data["epoch_sums"]),
            EarlyStoppingState(**data["watch"]),
            skipped=data.get("skipped", 0),
        )
        return cls((member,), timed_examples=data.get("timed_examples", 0.0), **rest)
