"""What came out of a cell: of each seed, and in the mean over those that did not diverge."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

from resnet_jax.ablation.grid import Cell

Status = Literal["done", "partial", "pending", "refused"]


@dataclasses.dataclass(frozen=True)
class MemberResult:
    """The result of one seed.

    Attributes:
        seed: which.
        diverged_at: the step at which its first update was rejected; then there is no test result.
        test_correct: test images classified correctly by the last state.
        test_examples: test images.
        test_loss: mean loss on them; None if it is not finite.
        params_digest: of the last state; see :func:`resnet_jax.models.digest.params_digest`.
        stuck: whether it ended no better than chance (:mod:`resnet_jax.training.stuck`); None if that cannot be said.
    """

    seed: int
    diverged_at: int | None = None
    test_correct: int | None = None
    test_examples: int | None = None
    test_loss: float | None = None
    params_digest: str | None = None
    stuck: bool | None = None

    @property
    def accuracy(self) -> float | None:
        """Test accuracy, or None if it diverged."""
        return None if not self.test_examples or self.test_correct is None else self.test_correct / self.test_examples


@dataclasses.dataclass(frozen=True)
class CellResult:
    """The result of a cell, finished or not.

    Attributes:
        cell: which.
        seeds: those it is to be trained with.
        members: the results so far.
        params: parameters of the network; None if it was refused.
        steps: updates of every seed; None if it was refused.
        seconds: time spent on training steps of all seeds, compilation and evaluation left out.
        refused: why it cannot be built, or None.
    """

    cell: Cell
    seeds: tuple[int, ...]
    members: tuple[MemberResult, ...] = ()
    params: int | None = None
    steps: int | None = None
    seconds: float = 0.0
    refused: str | None = None

    @property
    def status(self) -> Status:
        """Whether it was refused, and how many of its seeds are done: none, some or all."""
        if self.refused is not None:
            return "refused"
        if not self.members:
            return "pending"
        return "done" if {member.seed for member in self.members} >= set(self.seeds) else "partial"

    @property
    def accuracies(self) -> list[float]:
        """Test accuracies of the seeds that did not diverge."""
        return [member.accuracy for member in self.members if member.accuracy is not None]

    @property
    def diverged(self) -> dict[int, int]:
        """Seed -> step of the seeds that diverged."""
        return {member.seed: member.diverged_at for member in self.members if member.diverged_at is not None}

    @property
    def stuck(self) -> list[int]:
        """Seeds that ended no better than chance."""
        return [member.seed for member in self.members if member.stuck]

    @property
    def mean(self) -> float | None:
        """Mean of the accuracies; None if there is none."""
        return statistics.fmean(self.accuracies) if self.accuracies else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the accuracies (n - 1); None for fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return what result.json holds, and an entry of the command's ``--json``."""
        return {
            "cell": self.cell.id,
            "labels": self.cell.labels,
            "settings": self.cell.settings,
            "status": self.status,
            "mean": self.mean,
            "std": self.std,
            "n": len(self.accuracies),
            "values": {str(member.seed): member.accuracy for member in self.members},
            "diverged": {str(seed): step for seed, step in self.diverged.items()},
            "stuck": self.stuck,
            "refused": self.refused,
            "params": self.params,
            "steps": self.steps,
            "seconds": self.seconds,
            "members": [dataclasses.asdict(member) for member in self.members],
        }

    def with_stored(self, stored: dict[str, Any]) -> CellResult:
        """Return it with the members of a result.json."""
        members = tuple(MemberResult(**member) for member in stored["members"])
        return dataclasses.replace(self, members=members, seconds=stored["seconds"])

    def add(self, members: Sequence[MemberResult], seconds: float) -> CellResult:
        """Return it with more members, in the order of the seeds."""
        order = {seed: index for index, seed in enumerate(self.seeds)}
        joined = sorted((*self.members, *members), key=lambda member: order[member.seed])
        return dataclasses.replace(self, members=tuple(joined), seconds=self.seconds + seconds)


def finite(value: float) -> float | None:
    """Return the number, or None (JSON has no NaN) if it is not finite.

    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    return value if math.isfinite(value) else None
