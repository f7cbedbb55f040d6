"""Which images a trained network is shown: a split of its own data, wherever that is now, or another source.

Their labels are positions of the network's outputs, and the way they were determined is reported.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import assert_never

import numpy as np

from resnet_jax.data.classes import match_classes
from resnet_jax.data.columns import match_labels, match_targets
from resnet_jax.data.decode import has_colours
from resnet_jax.data.example import Example, Spec
from resnet_jax.data.folder import FolderRecords
from resnet_jax.data.in_memory import materialize
from resnet_jax.data.records import ArrayRecords, Dataset, Records
from resnet_jax.data.source import ARRAYS, carried_over, is_gone, load_dataset
from resnet_jax.data.split import Splits
from resnet_jax.data.stats import channel_stats
from resnet_jax.data.tfds import TfdsRecords
from resnet_jax.errors import DataError, RunError, UsageError, unknown
from resnet_jax.runs.box_classes import with_box_classes
from resnet_jax.runs.data import divide, geometry_of, labels_digest, load_splits
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.imports import missing_told
from resnet_jax.runs.pixel_classes import with_pixel_classes
from resnet_jax.runs.trained import TrainedRun, class_names_of, with_moved_data
from resnet_jax.tasks.facts import SAID_OF_KIND

SPLITS = ("train", "val", "test")
LOOKED_AT = 32
"""Number of images of a source whose colors are examined."""


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """Images for a network.

    Attributes:
        records: as stored, in the order of the source; labels are positions of the network's outputs.
        split: ``train``, ``val`` or ``test``; ``all`` for a source with a single split.
        own: whether they are a split of the run's own data, as the run divided it.
        place: where they are.
        classes: number of the network's classes that they belong to.
        said: what the user should know about the choice and the classes.
    """

    records: Records
    split: str
    own: bool
    place: str
    classes: int
    said: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """A description: ``the test split``, ``all 1,017 images of npz:x.npz``."""
        if self.own:
            return f"the {self.split} split"
        part = "" if self.split == "all" else f"{self.split} "
        return f"all {len(self.records):,} {part}images of {self.place}"


def choose_images(trained: TrainedRun, split: str, source: str | None = None, dataset: Dataset | None = None) -> Chosen:
    """Choose the images of a split.

    A ``source`` that is the run's own data at another location (:func:`own_or_other`) is divided as the run divided it,
    so that its test split contains no training images. For any other source, its own split is used, val if it has no
    test split, or everything if it has a single split.

    Args:
        trained: the network.
        split: ``train``, ``val`` or ``test``; or ``all``: every image of a source with a single split, the run's own or
            not.
        source: the source; None for the run's own data.
        dataset: an open data set, such as arrays, instead of a source.

    Raises:
        UsageError: if there is no such split, the run has no data of its own, or classes cannot be matched.
        RunError: if the run's own data has changed.
    """
    if split not in (*SPLITS, "all"):
        raise unknown("split", split, (*SPLITS, "all"))
    names = class_names_of(trained)
    if dataset is not None:
        if split != "all" and trained.config.data.source == ARRAYS and is_own(trained, dataset):
            return _own(trained, split, dataset)
        source = dataset.name
    elif split != "all":
        trained, source = own_or_other(trained, source)
    if source is None:
        return _own(trained, split)
    dataset = dataset or open_other(trained, source)
    part, said = _part(dataset, split)
    records = dataset.splits[part]
    labels, matched = _matched(trained, names, dataset, records)
    said = (*dataset.notes, *_maybe_trained_on(trained, source), *said, *matched)
    if len(trained.card.image_shape) == 3 and trained.card.image_dtype == "uint8":
        skip = trained.config.data.on_corrupt == "skip"
        said = (*said, *describe_colours(records, trained.card.image_shape[-1], skip=skip))
    records, count = relabelled(records, labels), _count_classes(labels)
    if dataset.kind == "segmentation":
        records, count = with_pixel_classes(records, dataset, names), len(dataset.class_names)
    if dataset.kind == "boxes":
        records, count, matched = with_box_classes(dataset.splits[part], dataset, names, str(trained.path))
        said = (*said, *matched)
    return Chosen(records, part, False, source, count, said)


def open_other(trained: TrainedRun, source: str) -> Dataset:
    """Open a source with the channels the network takes, gray, RGB or as stored, and the same orientation.

    The run's pattern and list of classes are applied to a source of the same kind if they fit it.
    """
    channels, data = trained.card.image_shape[-1], trained.config.data
    wanted = channels if channels in (1, 3) and trained.card.image_dtype == "uint8" else None
    reading = data.reading(wanted, 1)
    alike = source.partition(":")[0] == data.source.partition(":")[0]
    if alike and (data.class_pattern is not None or data.class_list is not None):
        with contextlib.suppress(DataError):
            return load_dataset(source, reading)
    return load_dataset(source, carried_over(reading, source))


def _matched(
    trained: TrainedRun, names: tuple[str, ...], dataset: Dataset, records: Records
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels of a source as positions of the network's outputs, matched by name, and what was done.

    Raises:
        UsageError: if they are of a different kind than those it was trained on, or cannot be matched.
    """
    kind, where = trained.card.label_kind, {"source": dataset.name, "network": str(trained.path)}
    if dataset.kind != kind:
        raise UsageError(
            f"the examples of {dataset.name} have {SAID_OF_KIND[dataset.kind]}, and the network of {trained.path} was "
            f"trained on {SAID_OF_KIND[kind]}: it cannot be evaluated on them"
        )
    match dataset.kind:
        case "class":
            present = np.unique(records.labels).tolist()
            matching = match_classes(dataset.class_names, names, present=present, **where)
            return matching.labels(records.labels), matching.said
        case "multi-label":
            ours = trained.output_names or trained.card.class_names
            return match_labels(records.labels, dataset.class_names, ours, **where)
        case "value":
            return match_targets(records.labels, dataset.class_names, names, **where)
        case "segmentation" | "boxes":  # the classes of pixels and boxes are those of the records, matched there
            return records.labels, ()
        case _:
            assert_never(dataset.kind)


def _count_classes(labels: np.ndarray) -> int:
    """Return how many classes, labels or targets the examples have."""
    if np.issubdtype(labels.dtype, np.integer):
        return len(np.unique(labels))
    return 1 if labels.ndim == 1 else int((labels != 0).any(axis=0).sum())


def is_own(trained: TrainedRun, dataset: Dataset) -> bool:
    """Return whether a data set has the run's own classes, splits and labels."""
    try:
        splits = divide(dataset, trained.config.data)
    except (DataError, UsageError):  # it cannot be divided so
        return False
    return not difference(trained.card, splits, dataset.class_names)


def _own(trained: TrainedRun, split: str, dataset: Dataset | None = None) -> Chosen:
    if split == "all":
        raise UsageError("split all is every image of a source: name it with data.source")
    if not trained.was_trained_here:
        raise UsageError(f"{trained.path} was imported: it has no images of its own; name some with data.source")
    splits = own_splits(trained, "divide") if dataset is None else divide(dataset, trained.config.data)
    records = getattr(splits, split)
    if records is None:
        raise UsageError(f"{trained.path} has no {split} split")
    place, data, said = trained.config.data.place, trained.config.data, ()
    if data.moved_to is not None:
        said = (f"the run's own data, moved from {data.source} to {place}: its own division is used",)
    return Chosen(records, split, True, place, _count_classes(records.labels), (*said, *splits.notes))


def _part(dataset: Dataset, split: str) -> tuple[str, tuple[str, ...]]:
    if "all" in dataset.splits:
        return "all", ()
    if split in dataset.splits:
        return split, ()
    if split == "test":
        return "val", (f"{dataset.name} has no test split: its val split is used",)
    raise UsageError(f"{dataset.name} has no {split} split: it has {', '.join(dataset.splits)}")


def own_splits(trained: TrainedRun, purpose: str) -> Splits:
    """Return the splits of a run's own data, as it divided them; nothing is decoded yet.

    Args:
        trained: the run.
        purpose: what they are for, for the message.

    Raises:
        UsageError: if the run was imported and has no data.
        DataError: if the data does not exist.
        RunError: if the data has changed.
    """
    data, card = trained.config.data, trained.card
    if not trained.was_trained_here:
        raise UsageError(f"{trained.path} was imported: it has no training images to {purpose}")
    try:
        with missing_told(trained.config.imports, where=str(trained.path)):
            splits, class_names = load_splits(trained.config)
    except DataError as error:
        if not is_gone(data.place):
            raise
        raise DataError(f"{error}. If the images lie elsewhere now, say where with data.moved_to") from error
    changed = difference(card, splits, class_names)
    if changed:
        then = "it" if data.moved_to is None else data.source
        raise RunError(
            f"{data.place} is not what {then} was when {trained.path} was trained: {changed}. Its division into "
            "splits would be another one; evaluate on all of it with data.source, or say with data.moved_to where "
            "the images lie now"
        )
    return splits


def own_or_other(trained: TrainedRun, source: str | None) -> tuple[TrainedRun, str | None]:
    """Find out whether a source is the run's own data; return the run with its data there and None, or both as given.

    It is if it has the same kind, classes, splits and labels, and its training images have the same mean and standard
    deviation (data.json has these if they are the run's normalization, otherwise those of the images at the old
    location are used; if nothing is left there, the labels alone decide).

    Args:
        trained: the run as loaded, with its own normalization and geometry.
        source: as for :func:`choose_images`.
    """
    data, card = trained.config.data, trained.card
    if source is None or not trained.was_trained_here or source.partition(":")[0] != data.source.partition(":")[0]:
        return trained, source
    dataset = open_other(trained, source)
    if dataset.kind != card.label_kind or not is_own(trained, dataset):
        return trained, source
    if source != data.place and not _has_statistics(trained, divide(dataset, data).train):
        return trained, source
    return (trained if source == data.place else with_moved_data(trained, source)), None


def _has_statistics(trained: TrainedRun, records: Records) -> bool:
    """Return whether training images have the run's mean and standard deviation, up to differences between decoders."""
    data, expected = trained.config.data, (trained.card.mean, trained.card.std)
    if data.mean:
        if is_gone(data.place):
            return True
        try:
            expected = _statistics(trained, own_splits(trained, "compare").train)
        except (DataError, RunError, UsageError):  # what lies there now is not the run's own either
            return False
    return bool(np.allclose(_statistics(trained, records), expected, rtol=0, atol=1e-4))


def _statistics(trained: TrainedRun, records: Records) -> tuple[np.ndarray, np.ndarray]:
    data = trained.config.data
    lost = data.unreadable("train", len(records))
    held = materialize(records, geometry_of(data), training=True, unreadable=lost)
    return channel_stats(held, unreadable=lost)


def describe_moved(trained: TrainedRun) -> tuple[str, ...]:
    """Report that the images at the location given by the user differ in pixels from the training images; empty if not.

    Args:
        trained: as returned by :func:`resnet_jax.runs.trained.with_moved_data`, with its own normalization.
    """
    data = trained.config.data
    if data.mean or not trained.was_trained_here:
        return ()
    if _has_statistics(trained, own_splits(trained, "divide").train):
        return ()
    return (
        f"the training images in {data.place} have another mean and deviation than those the network was trained on "
        "(data.json): converted, or other images",
    )


def _maybe_trained_on(trained: TrainedRun, source: str) -> tuple[str, ...]:
    """Report that a source may contain the training images, if those are not at their place."""
    data = trained.config.data
    if not trained.was_trained_here or source.partition(":")[0] != data.source.partition(":")[0]:
        return ()
    if source != data.place and not is_gone(data.place):
        return ()
    here = "which is not what it was" if source == data.place else "where nothing is any more"
    return (
        f"{trained.path} was trained on images of {data.place}, {here}: if these are among them, the accuracy counts "
        "images trained on",
    )


def describe_colours(records: Records, channels: int, *, skip: bool = False) -> tuple[str, ...]:
    """Report images that do not match the network's channels: color for a gray network, all gray for a color network.

    Examines :data:`LOOKED_AT` images, evenly spaced; unreadable ones are left out if they are to be skipped. An image
    is gray if its three channels are equal.
    """
    stored = dataclasses.replace(records, channels=3) if isinstance(records, (FolderRecords, TfdsRecords)) else records
    count = min(LOOKED_AT, len(records))
    images = []
    for place in range(count):
        try:
            images.append(stored[place * len(records) // count]["image"])
        except DataError:
            if not skip:
                raise
    count = len(images)
    colours = sum(has_colours(image) for image in images)
    if channels == 1 and colours:
        return (f"{_of(colours, count, len(records))} in colours, converted to gray: the network takes 1 channel",)
    if channels == 3 and not colours:
        return (f"{_of(count, count, len(records))} grey, repeated in the 3 channels that the network takes",)
    return ()


def _of(some: int, count: int, total: int) -> str:
    looked = "" if count == total else " looked at"
    return f"all {count:,} images{looked} are" if some == count else f"{some:,} of {count:,} images{looked} are"


def difference(card: DatasetInfo, splits: Splits, class_names: tuple[str, ...]) -> str:
    """Describe how data differs from a card; empty if it does not, as far as the card knows."""
    parts = {name: getattr(splits, name) for name in SPLITS}
    parts = {name: records for name, records in parts.items() if records is not None}
    examples = {name: len(records) for name, records in parts.items()}
    if examples != card.examples or class_names != card.class_names:
        return f"then {card.examples} of classes {card.class_names}, now {examples} of {class_names}"
    if card.labels and labels_digest(records.labels for records in parts.values()) != card.labels:
        return "as many images of the same classes, but in another order or with other labels"
    if card.members != splits.members:
        return "as many images of the same classes, but with other names, by which they are divided"
    return ""


@dataclasses.dataclass(frozen=True, eq=False)
class Relabelled:
    """Records with other labels."""

    records: Records
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> Example:
        return {**self.records[index], "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        return self.records.spec

    def describe(self, index: int) -> str:
        return self.records.describe(index)


def relabelled(records: Records, labels: np.ndarray) -> Records:
    """Return the same examples with other labels: int32 (N,), or float32 (N, K)."""
    if isinstance(records, ArrayRecords):
        return dataclasses.replace(records, labels=labels)
    return Relabelled(records, labels)
