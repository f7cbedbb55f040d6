"""Where batches are made, and how far ahead: the caller's thread, threads, or worker processes; the batches are equal.

A batch is a function of its step, so an executor has no state of its own: it requests steps in order, keeps a bounded
number of them in progress, and yields them in order. The position is the number of the step. No library is needed for
this: a thread pool takes twenty lines, whereas Grain takes seconds to import, adds its own frames to tracebacks, and
its processes each hold a state, pickle every batch and require flags to be parsed. To use Grain's executor with the
same batches::

    grain.MapDataset.source(range(steps)).map(batches.batch).to_iter_dataset(...)
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np

from resnet_jax.data.unreadable import Unreadable
from resnet_jax.errors import UsageError
from resnet_jax.runtime.ahead import in_threads

#: Arrays by name, examples along the first axis (:mod:`resnet_jax.data.pipeline` lists them).
Batch = dict[str, np.ndarray]
Batches = Generator[Batch, None, None]


class Steps(Protocol):
    """Batches by step: :class:`~resnet_jax.data.pipeline.TrainBatches` and ``EvalBatches``."""

    @property
    def unreadable(self) -> Unreadable | None:
        """Counts unreadable examples, if they are left out."""
        ...

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name -> shape and dtype of every array of a batch."""
        ...

    def batch(self, step: int) -> Batch:
        """Return the batch of a step."""
        ...


def in_order(
    batches: Steps, start: int, stop: int, *, threads: int = 2, prefetch: int = 4, workers: int = 0
) -> Batches:
    """Yield ``batches.batch(step)`` for every step of a range in order.

    At most ``max(prefetch, threads)`` batches are in progress or ready, plus the caller's; with workers ``workers *
    threads + prefetch``.

    Args:
        batches: returns a batch by step.
        start: first step.
        stop: the step after the last.
        threads: batches made at the same time in each process; 0 makes them in the caller's thread (in a worker: one).
        prefetch: number of batches made ahead.
        workers: number of processes that make them instead of this one.

    Raises:
        UsageError: if threads, prefetch or workers are out of range, or worker processes cannot open the source.
        DataError: as for ``batch``, in the caller's thread, in place of the batch that failed.
        RunError: if a worker process ended.
    """
    if threads < 0 or prefetch < 1 or workers < 0:
        raise UsageError(
            f"threads {threads} must be at least 0 and prefetch {prefetch} at least 1, workers {workers} at least 0"
        )
    steps = range(start, stop)
    if workers and steps:
        from resnet_jax.data.workers import in_processes

        return in_processes(batches, steps, workers=workers, threads=max(threads, 1), prefetch=prefetch)
    return in_threads(batches.batch, steps, threads, prefetch) if threads else (batches.batch(step) for step in steps)
