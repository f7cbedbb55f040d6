"""Evaluation of a data set: every example counted exactly once, whatever the batch size and the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.confusion import Confusion
from resnet_jax.tasks.task import Task
from resnet_jax.training.placement import Devices, shard_batch


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result over a data set.

    Attributes:
        loss: mean loss per example.
        examples: examples counted.
        metrics: of the task, by name; the headline is among them.
        sums: what the task added up over the examples, float64.
        rows: what it kept of every example, (examples, ...) in the order of the data; ``logits`` if the step gave them.
        details: what is more than a number: arrays with a number for every output, a confusion.
        notes: what a reader of the metrics has to know, a sentence each.
    """

    loss: float
    examples: int
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sums: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rows: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of examples that are predicted right; of tasks that have one."""
        return _of(self.metrics, "accuracy")

    @property
    def correct(self) -> int:
        """Examples that are predicted right; of tasks that count them."""
        return int(_of(self.sums, "correct"))

    @property
    def confusion(self) -> Confusion:
        """How many examples of which class were taken for which; of tasks that have classes."""
        return _of(self.details, "confusion")

    @property
    def logits(self) -> np.ndarray | None:
        """The outputs, (examples, outputs) in the order of the data, if the step gave them."""
        return self.rows.get("logits")


def _of(known: Mapping[str, Any], name: str) -> Any:
    if name not in known:
        raise UsageError(f"this evaluation has no {name}; it has {', '.join(known) or 'none'}")
    return known[name]


class EvaluationSums:
    """Adds up the outputs of an eval step on the host, where sums over batches are exact."""

    def __init__(self, task: Task):
        self._task = task
        self._loss, self._examples = 0.0, 0
        self._sums: dict[str, np.ndarray] = {}
        self._rows: dict[str, list[Any]] = {}

    def add(self, batch: Mapping[str, np.ndarray], out: Mapping[str, Any]) -> None:
        """Add one batch: what went into the step, and what came out of it, on the host.

        Of several processes, each gives its part of a batch, and the outputs are of all parts: so is their ``mask``.
        The outputs of a step without one are masked as the batch is.
        """
        mask = np.asarray(out["mask"] if "mask" in out else batch["mask"])
        self._loss += float(out["loss_sum"])
        self._examples += int(out["count"])
        for name, value in out["sums"].items():
            self._sums[name] = np.asarray(self._sums.get(name, 0.0) + np.asarray(value, np.float64))
        for name, values in out["rows"].items():
            self._rows.setdefault(name, []).append(jax.tree.map(lambda each: np.asarray(each)[mask], values))

    def result(self) -> Evaluation:
        """Return the result over all batches added.

        Raises:
            ValueError: there was no example at all.
        """
        task, count = self._task, self._examples
        if count == 0:
            raise ValueError("cannot evaluate an empty data set")
        loss = self._loss / count
        rows = {name: jax.tree.map(lambda *each: np.concatenate(each), *parts) for name, parts in self._rows.items()}
        metrics = dict(task.eval_metrics(self._sums, rows, count))
        if task.headline == "loss":
            metrics["loss"] = loss
        details = task.eval_details(self._sums, rows, count)
        return Evaluation(loss, count, metrics, self._sums, rows, details, task.eval_notes(details))


def evaluate(
    eval_step: Callable[..., Mapping[str, Any]],
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: Devices,
    task: Task | None = None,
    num_classes: int | None = None,
) -> Evaluation:
    """Run a compiled ``eval_step`` over masked host batches and add up; sums over batches are exact on the host.

    Args:
        eval_step: from :func:`~resnet_jax.training.step.make_eval_step`, compiled.
        variables: parameters and statistics.
        batches: with ``mask``; every example once.
        mesh: the devices.
        task: that of the step.
        num_classes: in its place, for classification.

    Raises:
        ValueError: there was no example at all, or a target cannot be any.
        UsageError: neither a task nor a number of classes, or both.
    """
    task = evaluated_task(task, num_classes)
    sums = EvaluationSums(task)
    for batch in batches:
        task.check(batch)
        sums.add(batch, jax.device_get(eval_step(variables, shard_batch(batch, mesh))))
    return sums.result()


def evaluated_task(task: Task | None, num_classes: int | None) -> Task:
    """Return the task, or classification of so many classes.

    Raises:
        UsageError: neither is given, or both.
    """
    if (task is None) == (num_classes is None):
        raise UsageError("an evaluation needs the task of its step, or num_classes for classification; not both")
    return Classification(num_classes or 0) if task is None else task
