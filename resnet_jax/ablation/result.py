"""The results of a cell: of each seed, and the mean over those that did not diverge."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

from resnet_jax.ablation.grid import Cell
from resnet_jax.training.evaluation import Evaluation

Status = Literal["done", "partial", "pending", "refused"]


@dataclasses.dataclass(frozen=True)
class MemberResult:
    """The result of one seed.

    Attributes:
        seed: the seed.
        diverged_at: the step at which its first update was rejected; then there is no test result.
        test_correct: number of test images classified correctly by the last state; None for a task that does not count
            them.
        test_examples: number of test images.
        test_loss: mean loss on them; None if it is not finite.
        params_digest: digest of the last state; see :func:`resnet_jax.models.digest.params_digest`.
        stuck: whether it ended no better than chance (:mod:`resnet_jax.training.stuck`); None if that cannot be
            determined.
        headline: the metric that the table shows.
        test_value: that metric on the test images.
    """

    seed: int
    diverged_at: int | None = None
    test_correct: int | None = None
    test_examples: int | None = None
    test_loss: float | None = None
    params_digest: str | None = None
    stuck: bool | None = None
    headline: str = "accuracy"
    test_value: float | None = None

    @property
    def score(self) -> float | None:
        """Its headline metric on the test images, or None if it diverged or the metric is not a number."""
        if self.test_examples and self.test_correct is not None and self.headline == "accuracy":
            return self.test_correct / self.test_examples
        return self.test_value


@dataclasses.dataclass(frozen=True)
class CellResult:
    """The result of a cell, finished or not.

    Attributes:
        cell: the cell.
        seeds: the seeds to train it with.
        members: the results so far.
        params: number of parameters of the network; None if it was rejected.
        steps: number of updates of every seed; None if it was rejected.
        seconds: time spent on training steps of all seeds, excluding compilation and evaluation.
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
        """Whether it was rejected, and how many of its seeds are done: none, some or all."""
        if self.refused is not None:
            return "refused"
        if not self.members:
            return "pending"
        return "done" if {member.seed for member in self.members} >= set(self.seeds) else "partial"

    @property
    def headline(self) -> str:
        """The metric of the scores."""
        return next((member.headline for member in self.members if member.diverged_at is None), "accuracy")

    @property
    def scores(self) -> list[float]:
        """Test scores, by the headline metric, of the seeds that did not diverge."""
        return [member.score for member in self.members if member.score is not None]

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
        """Mean of the scores; None if there is none."""
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the scores (n - 1); None for fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return the contents of result.json, and an entry of the command's ``--json``."""
        return {
            "cell": self.cell.id,
            "labels": self.cell.labels,
            "settings": self.cell.settings,
            "status": self.status,
            "metric": self.headline,
            "mean": self.mean,
            "std": self.std,
            "n": len(self.scores),
            "values": {str(member.seed): member.score for member in self.members},
            "diverged": {str(seed): step for seed, step in self.diverged.items()},
            "stuck": self.stuck,
            "refused": self.refused,
            "params": self.params,
            "steps": self.steps,
            "seconds": self.seconds,
            "members": [dataclasses.asdict(member) for member in self.members],
        }

    def with_stored(self, stored: dict[str, Any]) -> CellResult:
        """Return a copy with the members of a result.json."""
        members = tuple(MemberResult(**member) for member in stored["members"])
        return dataclasses.replace(self, members=members, seconds=stored["seconds"])

    def add(self, members: Sequence[MemberResult], seconds: float) -> CellResult:
        """Return a copy with more members, in the order of the seeds."""
        order = {seed: index for index, seed in enumerate(self.seeds)}
        joined = sorted((*self.members, *members), key=lambda member: order[member.seed])
        return dataclasses.replace(self, members=tuple(joined), seconds=self.seconds + seconds)


def measured(headline: str, result: Evaluation) -> dict[str, Any]:
    """Return the fields of a :class:`MemberResult` that contain the test result."""
    return {
        "test_correct": result.correct if headline == "accuracy" and "correct" in result.sums else None,
        "test_examples": result.examples,
        "test_loss": finite(result.loss),
        "headline": headline,
        "test_value": finite(result.metrics[headline]),
    }


def finite(value: float) -> float | None:
    """Return the number, or None (JSON has no NaN) if it is not finite.

    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    return value if math.isfinite(value) else None
