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
    loss, correct, examples = 0.0, 0, 0
    confusion = np.zeros((num_classes, num_classes), np.int64)
    logits: list[np.ndarray] = []
    for batch in batches:
        out = jax.device_get(eval_step(variables, shard_batch(batch, mesh)))
        mask = batch["mask"]
        loss += float(out["loss_sum"])
        correct += int(out["correct"])
        examples += int(out["count"])
        np.add.at(confusion, (batch["label"][mask], out["prediction"][mask]), 1)
        if "logits" in out:
            logits.append(out["logits"][mask])
    if examples == 0:
        raise ValueError("cannot evaluate an empty data set")
    return Evaluation(loss / examples, correct, examples, confusion, np.concatenate(logits) if logits else None)
