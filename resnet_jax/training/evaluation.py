"""Evaluation of a data set: every example counts exactly once, whatever the batch size and the devices."""

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
        examples: number of examples.
        metrics: the task's metrics by name, including the headline metric.
        sums: what the task summed over the examples, float64.
        rows: what the task kept of every example, (examples, ...) in data order; also ``logits`` if the step returned
            them.
        details: results that are not single numbers: arrays with one value per output, a confusion matrix.
        notes: sentences that a reader of the metrics needs to know.
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
        """Share of correctly predicted examples, for tasks that have one."""
        return _of(self.metrics, "accuracy")

    @property
    def correct(self) -> int:
        """Number of correctly predicted examples, for tasks that count them."""
        return int(_of(self.sums, "correct"))

    @property
    def confusion(self) -> Confusion:
        """Confusion matrix of the classes, for tasks that have classes."""
        return _of(self.details, "confusion")

    @property
    def logits(self) -> np.ndarray | None:
        """The outputs, (examples, outputs) in data order, if the step returned them."""
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
        """Add one batch: the input and the output of the step, on the host.

        With several processes, each passes its part of a batch, while the outputs and their ``mask`` cover all parts.
        If a step returns no mask, the batch's mask is used.
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
            ValueError: if there was no example at all.
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
    """Run a compiled ``eval_step`` over masked host batches and add up the results, exactly, on the host.

    Args:
        eval_step: from :func:`~resnet_jax.training.step.make_eval_step`, compiled.
        variables: parameters and statistics.
        batches: batches with a ``mask``, containing every example once.
        mesh: the devices.
        task: the task of the step.
        num_classes: number of classes, instead of a task, for classification.

    Raises:
        ValueError: if there was no example at all, or a target is invalid.
        UsageError: if neither or both of task and number of classes are given.
    """
    task = evaluated_task(task, num_classes)
    sums = EvaluationSums(task)
    for batch in batches:
        task.check(batch)
        sums.add(batch, jax.device_get(eval_step(variables, shard_batch(batch, mesh))))
    return sums.result()


def evaluated_task(task: Task | None, num_classes: int | None) -> Task:
    """Return the task, or classification with this number of classes.

    Raises:
        UsageError: if neither or both are given.
    """
    if (task is None) == (num_classes is None):
        raise UsageError("an evaluation needs the task of its step, or num_classes for classification; not both")
    return Classification(num_classes or 0) if task is None else task
