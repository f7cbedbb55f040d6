"""Evaluation of a data set: every example counted exactly once, whatever the batch size and the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.training.mesh import shard_batch


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result over a data set.

    Attributes:
        loss: mean loss per example.
        correct: examples whose largest logit is the label's.
        examples: examples counted.
        confusion: int64 (classes, classes); ``confusion[i, j]`` examples of class i were taken for class j.
        logits: (examples, classes) in the order of the data if the step gave them, else None.
    """

    loss: float
    correct: int
    examples: int
    confusion: np.ndarray
    logits: np.ndarray | None = None

    @property
    def accuracy(self) -> float:
        """Fraction of correct examples."""
        return self.correct / self.examples


class EvaluationSums:
    """Adds up the outputs of an eval step on the host, where sums over batches are exact."""

    def __init__(self, num_classes: int):
        self._loss, self._correct, self._examples = 0.0, 0, 0
        self._confusion = np.zeros((num_classes, num_classes), np.int64)
        self._logits: list[np.ndarray] = []

    def add(self, batch: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]) -> None:
        """Add one batch: what went into the step, and what came out of it, on the host."""
        mask = batch["mask"]
        self._loss += float(out["loss_sum"])
        self._correct += int(out["correct"])
        self._examples += int(out["count"])
        np.add.at(self._confusion, (batch["label"][mask], out["prediction"][mask]), 1)
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
        return Evaluation(self._loss / self._examples, self._correct, self._examples, self._confusion, logits)


def evaluate(
    eval_step: Callable[..., Mapping[str, Any]],
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: Mesh,
    num_classes: int,
) -> Evaluation:
    """Run a compiled ``eval_step`` over masked host batches and add up; sums over batches are exact on the host.

    Raises:
        ValueError: there was no example at all.
    """
    sums = EvaluationSums(num_classes)
    for batch in batches:
        sums.add(batch, jax.device_get(eval_step(variables, shard_batch(batch, mesh))))
    return sums.result()
