"""Batches as a pure function of the step: any batch of any epoch can be requested, by anyone, in any order.

So a run resumes exactly from one number, a batch can be examined after the fact, and threads, worker processes,
restarts and the number of processes make no difference. :mod:`.executor` decides who makes the batches.

======  ===========  =====================================================================================
key     array        meaning
======  ===========  =====================================================================================
image   (B, ..., C)  input of the network: uint8 (B, H, W, C) pixels 0..255, or as in the source
label   int32 (B,)   class; float32 (B, K) for several labels, (B,) or (B, M) for values
others  (B, ...)     every other field of the examples, by its name
mask    bool (B,)    False for padding and for what evaluation could not read; such entries must not count
index   int32 (B,)   position in the records, -1 where mask is False
epoch   int32 (B,)   number of passes over this example completed before this one
======  ===========  =====================================================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from resnet_jax.data.executor import Batch as Batch, Batches as Batches, in_order
from resnet_jax.data.order import SHUFFLED, Order, Sampling
from resnet_jax.data.records import Source, check_labels
from resnet_jax.data.transform import AS_STORED, Geometry
from resnet_jax.data.unreadable import Unreadable, unreadable_in
from resnet_jax.data.view import View
from resnet_jax.errors import UsageError


class TrainBatches:
    """Shuffled batches for training; examples that do not fill a last batch are left out, different ones in each epoch.

    Args:
        records: the examples to train on.
        batch_size: examples per global batch, over all processes.
        seed: seed of the order and of random crops.
        geometry: host-side geometry, of which the training side is used.
        shard: (rank, processes). Every process takes its contiguous part of the global batch; concatenated in the order
            of ranks, the parts are the batch of a single process.
        num_classes: K, to check the labels of records that are not from a `Dataset`, which has checked its own.
        sampling: whether classes are drawn equally often, and how often an image is in a batch.
        salt: selects another order for the same seed, with the same crops.
        unreadable: counts unreadable examples, which are replaced by the next of the order; None: they raise an error.

    Raises:
        UsageError: for a batch size the records cannot fill or the processes cannot share, or an invalid rank.
        DataError: for a label that is not an integer in 0..K-1.

    >>> from resnet_jax.data.records import ArrayRecords
    >>> batches = TrainBatches(ArrayRecords(np.zeros((10, 8, 8), np.uint8), np.arange(10)), 4, seed=0)
    >>> batches.steps_per_epoch, batches.batch(3)["epoch"].tolist()
    (2, [1, 1, 1, 1])
    >>> half = TrainBatches(batches.records, 4, seed=0, shard=(1, 2))
    >>> bool((half.batch(3)["index"] == batches.batch(3)["index"][2:]).all())
    True
    """

    def __init__(
        self,
        records: Source,
        batch_size: int,
        *,
        seed: int,
        geometry: Geometry = AS_STORED,
        shard: tuple[int, int] = (0, 1),
        num_classes: int | None = None,
        sampling: Sampling = SHUFFLED,
        salt: int = 0,
        unreadable: Unreadable | None = None,
    ) -> None:
        if num_classes is not None:
            check_labels(records, num_classes, "training records")
        self.records, self.batch_size, self.seed = records, batch_size, seed
        self.geometry, self.shard, self.unreadable = geometry, shard, unreadable
        self._rows = _shard_rows(batch_size, shard)
        self._sampling, self._salt = sampling, salt
        self._order = Order(records.labels, batch_size, seed=seed, sampling=sampling, salt=salt)
        self._lost = set(unreadable_in(records)) if unreadable is not None else set()
        self._view = View(records, geometry, training=True, seed=seed, unreadable=unreadable)
        self._labels = records.labels

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs; it rebuilds the order."""
        return {name: value for name, value in self.__dict__.items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = Order(
            self.records.labels, self.batch_size, seed=self.seed, sampling=self._sampling, salt=self._salt
        )

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name -> shape and dtype of every array of a batch, for this process's part."""
        return _arrays(self._view, self._labels, self._rows)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches with as many examples as there are records."""
        return self._order.steps_per_epoch

    def batch(self, step: int) -> Batch:
        """Return this process's part of batch ``step`` (0-based, counted from the start of training).

        Raises:
            UsageError: if the step is negative.
            DataError: if an image is unreadable, too many are, or one has another size.
        """
        index, epoch = self.order(step)
        found, index, epoch = self._view.read(index, epoch, lambda row: self._following(step, self._rows.start + row))
        return {
            **found,
            "label": self._labels[index],
            "mask": np.ones(len(index), bool),
            "index": index.astype(np.int32),
            "epoch": epoch.astype(np.int32),
        }

    def order(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions in the records of this process's part of batch ``step`` and their passes, (B,) each.

        If unreadable examples are only found when read, the batch's own ``index`` says which ones replaced them.

        Raises:
            UsageError: if the step is negative.
        """
        positions, passes = (part[self._rows] for part in self._order.at(step))
        if self._lost:
            positions, passes = positions.copy(), passes.copy()
            for row, position in enumerate(positions.tolist()):
                if position in self._lost:
                    following = self._following(step, self._rows.start + row)
                    positions[row], passes[row] = next(other for other in following if other[0] not in self._lost)
        return positions, passes

    def _following(self, step: int, row: int) -> Iterator[tuple[int, int]]:
        """Yield position and pass of what follows a row of the global batch, endlessly."""
        for ahead in itertools.count():
            positions, passes = self._order.at(step + ahead)
            start = row + 1 if ahead == 0 else 0
            yield from zip(positions[start:].tolist(), passes[start:].tolist(), strict=True)

    def resident(self) -> Batch:
        """Return all examples stacked: ``image``, ``label`` and their other fields, (N, ...).

        :meth:`order` selects the batches from them.

        Raises:
            UsageError: if the batches are not made of stored pixels.
        """
        if not self.stored:
            raise UsageError("the images are not held in memory, or the geometry draws other pixels in each epoch")
        return {**self._view.examples(np.arange(len(self.records))), "label": self._labels}

    @property
    def stored(self) -> bool:
        """Whether the pixels of the batches are in memory, and the same in every epoch."""
        return self._view.stored

    @property
    def stored_bytes(self) -> int:
        """Size in bytes of all arrays of :meth:`resident`."""
        return len(self.records) * self._view.example_bytes + self._labels.nbytes

    def iterate(
        self, start_step: int, stop_step: int, *, threads: int = 2, prefetch: int = 4, workers: int = 0
    ) -> Batches:
        """Yield ``batch(step)`` for every step of the range in order, made ahead; see :func:`.executor.in_order`.

        Args:
            start_step: first step; where a run resumes.
            stop_step: the step after the last.
            threads: number of batches made at the same time; 0 makes them in the caller's thread.
            prefetch: number of finished batches kept ready.
            workers: number of processes that make them, each with this many threads; 0 for this one.

        Raises:
            UsageError: if the step is negative, or threads, prefetch or workers are out of range.
            DataError: as for `batch`, in the caller's thread, in place of the batch that failed.
            RunError: if a worker process ended.
        """
        return in_order(self, start_step, stop_step, threads=threads, prefetch=prefetch, workers=workers)


class EvalBatches:
    """Every example exactly once and in order; the last batch is padded to full shape with mask False.

    Args:
        records: the examples to evaluate on.
        batch_size: examples per global batch, over all processes.
        geometry: host-side geometry, of which the evaluation side is used.
        shard: as for `TrainBatches`.
        num_classes: as for `TrainBatches`.
        unreadable: counts unreadable examples, whose rows have mask False; None: they raise an error.

    Raises:
        UsageError: for a batch size that is not positive or the processes cannot share, or an invalid rank.
        DataError: for a label that is not an integer in 0..K-1.

    >>> from resnet_jax.data.records import ArrayRecords
    >>> batches = EvalBatches(ArrayRecords(np.zeros((5, 8, 8), np.uint8), np.arange(5)), 4)
    >>> [batch["index"].tolist() for batch in batches]
    [[0, 1, 2, 3], [4, -1, -1, -1]]
    """

    def __init__(
        self,
        records: Source,
        batch_size: int,
        geometry: Geometry = AS_STORED,
        *,
        shard: tuple[int, int] = (0, 1),
        num_classes: int | None = None,
        unreadable: Unreadable | None = None,
    ) -> None:
        if num_classes is not None:
            check_labels(records, num_classes, "evaluation records")
        self.records, self.batch_size, self.geometry, self.shard = records, batch_size, geometry, shard
        self.unreadable, self._lost = unreadable, list(unreadable_in(records)) if unreadable is not None else []
        self._rows = _shard_rows(batch_size, shard)
        self._view = View(records, geometry, training=False, unreadable=unreadable)
        self._labels = records.labels

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.records) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """Return this process's part of batch ``step`` (0-based).

        Raises:
            UsageError: if there is no such step.
            DataError: if an image is unreadable or has another size.
        """
        if not 0 <= step < len(self):
            raise UsageError(f"step {step} is not one of the {len(self)} evaluation batches 0..{len(self) - 1}")
        rows = np.arange(step * self.batch_size, (step + 1) * self.batch_size)[self._rows]
        wanted = rows[rows < len(self.records)]
        found, read, _ = self._view.read(wanted)
        index = np.full(len(rows), -1, np.int32)
        index[: len(wanted)] = np.where(np.isin(read, self._lost), -1, read) if self._lost else read
        found = {**found, "label": self._labels[wanted]}
        return {
            **{name: _padded(values, len(rows)) for name, values in found.items()},
            "mask": index >= 0,
            "index": index,
            "epoch": np.zeros(len(rows), np.int32),
        }

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name -> shape and dtype of every array of a batch, for this process's part."""
        return _arrays(self._view, self._labels, self._rows)

    @property
    def stored(self) -> bool:
        """Whether the pixels of the batches are in memory."""
        return self._view.stored

    def iterate(self, *, threads: int = 2, prefetch: int = 4, workers: int = 0) -> Batches:
        """Yield all batches in order, made ahead; see `TrainBatches.iterate`."""
        return in_order(self, 0, len(self), threads=threads, prefetch=prefetch, workers=workers)

    def __iter__(self) -> Iterator[Batch]:
        return self.iterate()


def _arrays(view: View, labels: np.ndarray, rows: slice) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    count = rows.stop - rows.start
    found = {name: ((count, *shape), np.dtype(dtype)) for name, (shape, dtype) in view.fields.items()}
    found["label"] = ((count, *labels.shape[1:]), labels.dtype)
    own = {"mask": np.dtype(bool), "index": np.dtype(np.int32), "epoch": np.dtype(np.int32)}
    return found | {name: ((count,), dtype) for name, dtype in own.items()}


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    """Return (rows, ...): the values, padded with zeros."""
    if len(values) == rows:
        return values
    padded = np.zeros((rows, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def _shard_rows(batch_size: int, shard: tuple[int, int]) -> slice:
    rank, processes = shard
    if not 0 <= rank < processes:
        raise UsageError(f"shard {shard}: the rank must be in 0..{processes - 1}")
    if batch_size < 1 or batch_size % processes:
        raise UsageError(f"batch size {batch_size} must be a positive multiple of the {processes} processes")
    part = batch_size // processes
    return slice(rank * part, (rank + 1) * part)
