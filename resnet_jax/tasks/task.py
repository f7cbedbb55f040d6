"""What the outputs of a network mean: the loss that is minimized, the metrics that are reported, the predictions.

A task knows batches and outputs and nothing of networks, files or training. Its metrics are of two kinds: per-example
values that are summed, which add over batches, devices and processes; and rows that are kept for every example, for
metrics that do not add (the area under a curve).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import jax
import numpy as np

Batch = Mapping[str, jax.Array]


@runtime_checkable
class Task(Protocol):
    """What the outputs of a network mean. Tasks are frozen, hashable values; their functions are pure.

    Attributes:
        headline: the metric that decides which state is the best and when to stop early, such as ``accuracy``.
        mode: whether larger or smaller is better.
        num_outputs: outputs of the network.
    """

    @property
    def headline(self) -> str: ...

    @property
    def mode(self) -> Literal["max", "min"]: ...

    @property
    def num_outputs(self) -> int: ...

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Refuse a host batch whose targets cannot be any, naming the first (on the device they only give NaN).

        Raises:
            UsageError: with the first such target and its place in the batch.
        """
        ...

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the loss of every example, (N,); the step minimizes its mean."""
        ...

    def train_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return per-example values, (N,), whose sums a train step reports beside the loss, such as ``correct``."""
        ...

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return metrics of the sums of :meth:`train_sums` over ``count`` examples, such as ``accuracy``."""
        ...

    def eval_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return per-example values, (N, ...), whose sums over the data make metrics."""
        ...

    def eval_rows(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return per-example values, (N, ...), that are kept for every example of the data."""
        ...

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return the metrics of a data set, numbers by name, the headline among them.

        Args:
            sums: of :meth:`eval_sums`, float64.
            rows: of :meth:`eval_rows`, every example once, in the order of the data.
            count: examples.
        """
        ...
