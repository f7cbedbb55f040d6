"""Evaluation of a data set: every example counted exactly once, whatever the batch size and the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from resnet_jax.training.confusion import Confusion
from resnet_jax.training.placement import Devices, require_classes, shard_batch


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result over a data set.

    Attributes:
        loss: mean loss per example.
        correct: examples whose largest logit is the label's.
        examples: examples counted.
        confusion: how many examples of which class were taken for which.
        logits: (examples, classes) in the order of the data if the step gave them, else None.
    """

    loss: float
    correct: int
    examples: int
    confusion: Confusion
    logits: np.ndarray | None = None

    @property
    def accuracy(self) -> float:
        """Fraction of correct examples."""
        return self.correct / self.examples

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by name."""
        return {"accuracy": self.accuracy}


class EvaluationSums:
    """Adds up the outputs of an eval step on the host, where sums over batches are exact."""

    def __init__(self, num_classes: int):
        self._loss, self._correct, self._examples = 0.0, 0, 0
        self._classes = num_classes
        self._pairs: dict[tuple[int, int], int] = {}
        self._logits: list[np.ndarray] = []

    def add(self, batch: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]) -> None:
        """Add one batch: what went into the step, and what came out of it, on the host."""
        mask = batch["mask"]
        self._loss += float(out["loss_sum"])
        self._correct += int(out["correct"])
        self._examples += int(out["count"])
        found = np.stack([batch["label"][mask], out["prediction"][mask]])
        for (true, predicted), count in zip(*_counted(found), strict=True):
            self._pairs[true, predicted] = self._pairs.get((true, predicted), 0) + count
        if "logits" in out:
            self._logits.append(out["logits"][mask])

    def result(self) -> Evaluation:
        """Return the result over all batches added.

        Raises:
            ValueError: there was no example at all.
        """
        if self._examples == 0:
            raise ValueError("cannot evaluate an empty data set")
        logits = np.concatenate(self._logits) if self._logits else None
        confusion = Confusion.of(self._pairs, self._classes)
        return Evaluation(self._loss / self._examples, self._correct, self._examples, confusion, logits)


def _counted(pairs: np.ndarray) -> tuple[list[list[int]], list[int]]:
    """Return the distinct columns of integers (2, N), and how often each occurs."""
    columns, counts = np.unique(pairs, axis=1, return_counts=True)
    return columns.T.tolist(), counts.tolist()


def evaluate(
    eval_step: Callable[..., Mapping[str, Any]],
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: Devices,
    num_classes: int,
) -> Evaluation:
    """Run a compiled ``eval_step`` over masked host batches and add up; sums over batches are exact on the host.

    Raises:
        ValueError: there was no example at all, or a label is none of the classes.
    """
    sums = EvaluationSums(num_classes)
    for batch in batches:
        require_classes(batch, num_classes)
        sums.add(batch, jax.device_get(eval_step(variables, shard_batch(batch, mesh))))
    return sums.result()
