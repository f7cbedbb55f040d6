"""Regression: every example has one or more numbers, which the outputs should approximate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, assert_never, get_args

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.ops import at_least_float32
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.registry import criterion_of, register_task, require_kind, require_outputs
from resnet_jax.tasks.scores import mean_known
from resnet_jax.tasks.task import Batch, TaskBase

RegressionLoss = Literal["mse", "l1", "huber"]


@dataclasses.dataclass(frozen=True)
class Regression(TaskBase):
    """Labels are numbers (N,) or (N, M); the loss is the mean over the M targets.

    With ``mean`` and ``std`` the network learns the standardized targets (y - mean) / std. The loss is in those units;
    predictions, rows and metrics are in the units of the targets. Metrics, each averaged over the targets: ``r2`` (the
    headline: 1 is perfect, 0 is as good as predicting the mean; it has no unit, so it can be averaged over targets),
    ``rmse`` and ``mae``. During training, ``r2`` uses the deviation of the whole training set.

    Attributes:
        num_outputs: number of targets, M.
        criterion: ``mse``, ``l1`` or ``huber``.
        huber_delta: error up to which the Huber loss is half the square; beyond it is linear (Huber, 1964, as PyTorch's
            ``HuberLoss``). In the units that the network learns.
        mean: mean of each target in the training set; () for none.
        std: their standard deviations.
        names: names of the targets, for notes.

    Raises:
        UsageError: inconsistent numbers.

    >>> task = Regression(1, mean=(10.0,), std=(2.0,))
    >>> task.loss(jnp.array([[0.5]]), {"label": jnp.array([11.0])}).tolist(), task.predict(np.array([[0.5]]), 1)
    ([0.0], [[(0, 11.0)]])
    """

    kind: ClassVar[str] = "regression"
    headline: ClassVar[str] = "r2"
    mode: ClassVar[Literal["max", "min"]] = "max"

    num_outputs: int = 1
    criterion: RegressionLoss = "mse"
    huber_delta: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, self.num_outputs):
            raise UsageError(f"{len(self.mean)} means and {len(self.std)} deviations, {self.num_outputs} targets")
        if any(not 0.0 < std < float("inf") for std in self.std):
            raise UsageError(f"the deviations of targets must be finite and positive, got {self.std}")
        if not 0.0 < self.huber_delta < float("inf"):
            raise UsageError(f"huber_delta must be finite and positive, got {self.huber_delta}")

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Reject targets of another shape, or that are not finite."""
        labels = np.asarray(batch["label"])
        rows = labels[:, None] if labels.ndim == 1 else labels
        if rows.ndim != 2 or rows.shape[1] != self.num_outputs:
            raise UsageError(f"targets must be (N, {self.num_outputs}), got {labels.shape}")
        wrong = ~np.isfinite(rows).all(axis=1) & np.asarray(batch.get("mask", True), bool)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise UsageError(f"target {labels[first]} of example {first} of the batch is not finite")

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the mean over the targets, (N,)."""
        import optax

        error = self._error(outputs, batch)
        match self.criterion:
            case "mse":
                losses = jnp.square(error)
            case "l1":
                losses = jnp.abs(error)
            case "huber":
                losses = optax.huber_loss(error, delta=self.huber_delta)
            case _:
                assert_never(self.criterion)
        return losses.mean(axis=-1)

    def train_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return ``squared_error``, averaged over the targets in the units of the loss, (N,)."""
        return {"squared_error": jnp.square(self._error(outputs, batch)).mean(axis=-1)}

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return ``r2``, or ``mse`` if the deviations of the targets are unknown."""
        mse = sums["squared_error"] / count
        return {"r2": 1.0 - mse} if self.std else {"mse": mse}

    def eval_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return nothing: all metrics are computed from the rows, in float64."""
        return {}

    def eval_rows(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return ``label`` and ``prediction``, (N, M), in the units of the targets."""
        wide = outputs.astype(at_least_float32(outputs.dtype))
        if self.std:
            wide = wide * jnp.asarray(self.std, wide.dtype)[None] + jnp.asarray(self.mean, wide.dtype)[None]
        return {"label": self._targets(outputs, batch), "prediction": wide}

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return R2, RMSE and MAE, averaged over the targets."""
        details = self.eval_details(sums, rows, count)
        return {name: mean_known(details[name]) for name in ("r2", "rmse", "mae")}

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return ``r2``, ``rmse`` and ``mae`` of every target, float64 (M,). R2 is NaN if all values of a target are
        equal.
        """
        true, predicted = (np.asarray(rows[name], np.float64) for name in ("label", "prediction"))
        error = predicted - true
        squares, total = (error**2).sum(axis=0), ((true - true.mean(axis=0)[None]) ** 2).sum(axis=0)
        known = (true != true[:1]).any(axis=0)
        return {
            "r2": np.where(known, 1.0 - squares / np.where(known, total, 1.0), np.nan),
            "rmse": np.sqrt(squares / count),
            "mae": np.abs(error).mean(axis=0),
        }

    def eval_notes(self, details: Mapping[str, Any]) -> tuple[str, ...]:
        """Name the targets that have no R2."""
        missing = np.flatnonzero(np.isnan(details["r2"]))
        if not len(missing):
            return ()
        listed = ", ".join(self.names[k] if self.names else str(k) for k in missing[:5])
        more = ", ..." if len(missing) > 5 else ""
        return (
            f"{len(missing)} of {self.num_outputs} targets ({listed}{more}) are the same in all examples, or "
            "predictions of them are not finite: r2 leaves them out",
        )

    def predict(self, outputs: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
        """Return every target of each example, in its unit."""
        values = np.asarray(outputs, np.float64)
        if self.std:
            values = values * np.asarray(self.std)[None] + np.asarray(self.mean)[None]
        return [list(enumerate(row.tolist())) for row in values]

    def _targets(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        labels = batch["label"]
        rows = labels[:, None] if labels.ndim == 1 else labels
        if rows.shape != outputs.shape:
            raise UsageError(f"targets {labels.shape} do not go with outputs {outputs.shape}")
        return rows.astype(at_least_float32(outputs.dtype))

    def _error(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return outputs minus targets, (N, M), in the units that the network learns."""
        targets = self._targets(outputs, batch)
        if self.std:
            mean, std = (jnp.asarray(values, targets.dtype)[None] for values in (self.mean, self.std))
            targets = (targets - mean) / std
        return outputs.astype(targets.dtype) - targets


@register_task("regression", uses=("loss", "huber_delta", "standardize"))
def make_regression(config: TaskConfig, facts: TaskFacts) -> Regression:
    """Return the configured regression task."""
    require_kind("regression", facts, "value")
    require_outputs(facts, "targets")
    criterion: Any = criterion_of(config, "regression", get_args(RegressionLoss))
    if config.huber_delta != 1.0 and criterion != "huber":
        raise UsageError(f"task.huber_delta {config.huber_delta:g} is of task.loss huber, not of {criterion}")
    mean, std = facts.mean, facts.std
    if not config.standardize:
        mean = std = ()
    return Regression(facts.num_outputs, criterion, config.huber_delta, mean, std, facts.names)
