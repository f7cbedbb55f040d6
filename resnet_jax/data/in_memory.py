"""Decode once, keep the pixels: the best choice for every data set that fits in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from resnet_jax.data.example import MEANING_OF_RANK, Meaning
from resnet_jax.data.records import ArrayRecords, Source
from resnet_jax.data.transform import Geometry
from resnet_jax.data.unreadable import Unreadable
from resnet_jax.data.view import View

LIMIT_BYTES = 2 << 30
CHUNK = 256
"""Number of images decoded by one task of the thread pool."""


def materialize(
    records: Source,
    geometry: Geometry,
    *,
    training: bool,
    limit_bytes: int = LIMIT_BYTES,
    threads: int | None = None,
    unreadable: Unreadable | None = None,
) -> Source:
    """Return the same examples, through the geometry, held in memory; or the records unchanged.

    Records are returned unchanged if they already hold these pixels, for training records under a random geometry (each
    epoch sees other pixels), and if their pixels would exceed ``limit_bytes``. Batches of the result are the same
    either way.

    Args:
        records: any records.
        geometry: as for the batches.
        training: whether the training or the evaluation geometry is meant.
        limit_bytes: maximum size of the pixels; the first image determines how many there are.
        threads: decoding threads; None for one per processor.
        unreadable: counts unreadable examples, which are left at zeros and marked; None to stop at one.

    Raises:
        DataError: if an image is unreadable, too many are, or one has another size; if several, the first is reported.
    """
    if training and geometry.random:
        return records
    view = View(records, geometry, training=training, unreadable=unreadable)
    if view.stored or len(records) * view.example_bytes > limit_bytes:
        return records
    count = len(records)
    stacked = {name: np.empty((count, *shape), dtype) for name, (shape, dtype) in view.fields.items()}

    def fill(start: int) -> None:
        indices = np.arange(start, min(start + CHUNK, count))
        for name, values in view.examples(indices).items():
            stacked[name][start : start + CHUNK] = values

    in_threads(fill, range(0, count, CHUNK), threads)
    meanings: dict[str, Meaning] = {name: field.meaning for name, field in view.spec.items()}
    images, meaning = stacked.pop("image"), MEANING_OF_RANK.get(len(view.shape))
    lost = {} if unreadable is None else {entry.index: entry.reason for entry in unreadable.entries}
    return ArrayRecords(
        images,
        records.labels,
        origin=records,
        fields=stacked,
        meaning=meaning,
        meanings=meanings,
        unreadable=lost,
    )


def in_threads(work: Callable[[int], None], starts: Iterable[int], threads: int | None = None) -> None:
    """Call ``work`` with every start in a pool of threads, and wait; of several errors, the one of the first is raised.

    Args:
        work: processes the images from a start on.
        starts: the starts, in order.
        threads: number of threads; None for one per processor.
    """
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="images")
    try:
        for _ in pool.map(work, starts):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
