"""What a trained network computes below its classifier: embeddings, or the feature maps of any stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from resnet_jax.data.records import Dataset, Records
from resnet_jax.data.source import KINDS
from resnet_jax.errors import DataError, UsageError, unknown
from resnet_jax.runs.chosen import open_other, own_splits
from resnet_jax.runs.inference import BUCKETS, Image, Inference
from resnet_jax.runs.trained import TrainedRun

POOLED = "pooled"
"""The part of a network that is its embedding: the classifier's input."""


def parts_of(trained: TrainedRun) -> tuple[str, ...]:
    """Return the names of what a network's backbone returns: ``stem``, ``stage1``, ..., ``final``, ``pooled``."""
    stages = [f"stage{index}" for index in range(1, len(trained.model.config.stage_sizes) + 1)]
    return ("stem", *stages, "final", POOLED)


class Embedder(Inference):
    """A network ready to compute features of images: see :class:`resnet_jax.runs.inference.Inference`.

    Args:
        trained: as returned by :func:`resnet_jax.runs.trained.load_run`; it may have no classifier.
        part: a name from :func:`parts_of`, as described in :meth:`resnet_jax.models.ResNet.features`.
        buckets: batch sizes.

    Raises:
        UsageError: if there is no such part, or the network's normalization is unknown.
    """

    def __init__(self, trained: TrainedRun, part: str = POOLED, buckets: Sequence[int] = BUCKETS):
        if part not in parts_of(trained):
            raise unknown("part of the network", part, parts_of(trained))
        super().__init__(trained, buckets, part)


@dataclasses.dataclass(frozen=True)
class Feature:
    """The features of one image.

    Attributes:
        image: its file, or its index and source.
        split: the split of the data set it is in; empty without a data set.
        label: the position of its class in the data set's own order; -1 without a data set.
        values: float32, (C,) or (H, W, C); None if the image could not be read.
        error: why it could not be read, or None.
    """

    image: str
    split: str
    label: int
    values: np.ndarray | None
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Described:
    """Images with labels, by split.

    Attributes:
        splits: records by the name of their split, in order.
        class_names: names of the labels.
        notes: what the user should know about the data.
    """

    splits: dict[str, Records]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> Described:
        """Return a data set with its own splits."""
        return cls(dict(dataset.splits), tuple(dataset.class_names), tuple(dataset.notes))


def find_images(trained: TrainedRun, source: str | None) -> Described | None:
    """Return the images of a data source, or of the run itself for None; None if it is not a data source.

    Raises:
        UsageError: if an imported network has no images of its own.
        DataError: if the data does not exist, or is unreadable.
        RunError: if the run's own data has changed.
    """
    if source is None:
        if not trained.was_trained_here:
            raise UsageError(f"{trained.path} was imported: it has no images of its own; name some, as folder:PATH")
        own = own_splits(trained, "describe")
        found = {"train": own.train, "val": own.val, "test": own.test}
        splits = {name: records for name, records in found.items() if records is not None}
        return Described(splits, trained.card.class_names, own.notes)
    if source.partition(":")[0] not in KINDS:
        return None
    return Described.of(open_other(trained, source))


def features_of(embedder: Embedder, described: Described) -> Iterator[Feature]:
    """Yield the features of every image of a data set, split after split, in the order of the records."""
    for split, records in described.splits.items():
        found = embedder.each(_images(records))
        for index, (_, values) in enumerate(found):
            yield _feature(records.describe(index), values, split, int(records.labels[index]))


def features_of_files(embedder: Embedder, paths: Iterable[Image]) -> Iterator[Feature]:
    """Yield the features of image files."""
    for name, values in embedder.each(paths):
        yield _feature(name, values)


def _images(records: Records) -> Iterator[Any]:
    for index in range(len(records)):
        try:
            yield records[index]["image"]
        except DataError as error:
            yield error


def _feature(image: str, values: np.ndarray | DataError, split: str = "", label: int = -1) -> Feature:
    if isinstance(values, DataError):
        return Feature(image, split, label, None, str(values))
    return Feature(image, split, label, values)
