"""The images of a run: opened, split, decoded as far as they fit in memory, and described."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import assert_never

import numpy as np

from resnet_jax.data.division import Division
from resnet_jax.data.in_memory import materialize
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset, Records
from resnet_jax.data.source import load_dataset
from resnet_jax.data.split import Splits, require_trainable, resolve_splits
from resnet_jax.data.stats import channel_stats, check_normalization
from resnet_jax.data.transform import Geometry
from resnet_jax.data.transforms import divide as divide_transforms
from resnet_jax.data.unreadable import SHARE, OnCorrupt, Unreadable, first_readable
from resnet_jax.data.verify import check_readable
from resnet_jax.data.view import View
from resnet_jax.errors import DataError, UsageError
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.other_input import OtherInput, other_input
from resnet_jax.runs.targets import targets_of
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.facts import LabelKind


@dataclasses.dataclass(frozen=True)
class RunData:
    """The images of a run, split and described."""

    splits: Splits
    geometry: Geometry
    card: DatasetInfo
    stored_shape: tuple[int, ...] | None = None
    """(height, width, channels) of the first training image as stored; None if unknown."""
    unreadable: Mapping[str, Unreadable] = dataclasses.field(default_factory=dict)
    """Split -> the counter of its unreadable examples, if these are skipped."""

    def unreadable_of(self, records: Records | None) -> Unreadable | None:
        """Return the counter for the unreadable examples of a split; None if such an example stops the run."""
        return next((found for split, found in self.unreadable.items() if getattr(self.splits, split) is records), None)


def geometry_of(config: DataConfig) -> Geometry:
    """Return the host-side geometry of a configuration."""
    host = divide_transforms(config.augment)
    crop = "random_resized" if host.random_resized else "none"
    sized = config.eval_side if config.image_size is not None else None
    return Geometry(config.image_size, crop, host.before, host.after, config.resize, sized, config.interpolation)


def load_splits(config: RunConfig) -> tuple[Splits, tuple[str, ...]]:
    """Open the source and split it; return the splits and the class names. Nothing is decoded yet."""
    return PixelsWanted.of(config).open()


def divide(dataset: Dataset, data: DataConfig) -> Splits:
    """Split a data set as a run splits its own."""
    return PixelsWanted.of(RunConfig(data=data)).divide(dataset)


@dataclasses.dataclass(frozen=True)
class PixelsWanted:
    """Everything that determines which pixels a run holds and which images are in which split.

    Attributes:
        source: where the images are now.
        division: how they are split.
        reading: how the source is read.
        geometry: the host-side resize and crop.
    """

    source: str
    division: Division
    reading: Reading
    geometry: Geometry
    on_corrupt: OnCorrupt = "stop"
    max_corrupt: float = SHARE

    @classmethod
    def of(cls, config: RunConfig) -> PixelsWanted:
        """Return what a configuration asks for."""
        data = config.data
        channels = config.model.changes.get("in_channels")
        corrupt = (data.on_corrupt, data.max_corrupt)
        return cls(data.place, data.division(), data.reading(channels), geometry_of(data), *corrupt)

    def open(self) -> tuple[Splits, tuple[str, ...]]:
        """Open the source and split it; return the splits and the class names. Nothing is decoded yet."""
        dataset = load_dataset(self.source, self.reading)
        return self.divide(dataset), dataset.class_names

    def divide(self, dataset: Dataset) -> Splits:
        """Split a data set."""
        return resolve_splits(dataset, self.division)


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The images of a run, split, and decoded as far as they fit in memory."""

    splits: Splits
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    geometry: Geometry
    stored_shape: tuple[int, ...]
    dtype: str = "uint8"
    """Dtype of the inputs."""
    unreadable: Mapping[str, Unreadable] = dataclasses.field(default_factory=dict)
    """Split -> the counter of its unreadable examples, if these are skipped."""

    @functools.cached_property
    def other(self) -> OtherInput | None:
        """What is known about the second input of the examples; None if there is none."""
        return other_input(self.splits.train, self.unreadable.get("train"))

    @functools.cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of the training images (of x / 255 for uint8), computed on demand."""
        mean, std = channel_stats(self.splits.train, unreadable=self.unreadable.get("train"))
        return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def load_pixels(wanted: PixelsWanted, dataset: Dataset | None = None) -> Pixels:
    """Split the source and decode what fits in memory. What does not fit is decoded once to verify that it can be.

    Args:
        wanted: the source, its division and its geometry.
        dataset: an open data set, such as arrays (`resnet_jax.data.npz.load_arrays`); None to open the source.

    Raises:
        DataError: if the images are invalid, a test class has no training images, or nothing is left to test on.
    """
    if dataset is None:
        splits, class_names = wanted.open()
    else:
        splits, class_names = wanted.divide(dataset), dataset.class_names
    if splits.test is None:
        raise DataError(f"{wanted.source} has no images to test on: give it a test or val split")
    require_trainable(splits, class_names)
    geometry, notes, unreadable = wanted.geometry, list(splits.notes), {}
    decoded: dict[str, Records] = {}
    for name in ("train", "val", "test"):
        records = getattr(splits, name)
        if records is not None:
            if wanted.on_corrupt == "skip":
                unreadable[name] = Unreadable(name, len(records), wanted.max_corrupt)
            lost = unreadable.get(name)
            decoded[name] = materialize(records, geometry, training=name == "train", unreadable=lost)
            if not check_readable(decoded[name], geometry, unreadable=lost):
                then = "stops the run then" if lost is None else "is skipped then"
                notes.append(
                    f"the {len(records):,} {name} images are too many to check before the start: they are decoded "
                    f"as they are needed, and one that is broken {then}"
                )
    stored_shape = first_readable(splits.train, unreadable.get("train"))[1]["image"].shape
    splits = dataclasses.replace(splits, **decoded, notes=tuple(notes))
    view = View(splits.train, geometry, training=True, unreadable=unreadable.get("train"))
    dtype = view.fields["image"][1].name
    return Pixels(splits, class_names, view.shape, geometry, stored_shape, dtype, unreadable)


def load_images(config: RunConfig, dataset: Dataset | None = None) -> RunData:
    """Open the source for a run, or use an open data set; see :func:`load_pixels`.

    Raises:
        UsageError: if the number of means differs from the number of channels.
        DataError: as for :func:`load_pixels`.
    """
    return describe_images(load_pixels(PixelsWanted.of(config), dataset), config.data, config.task)


def describe_images(pixels: Pixels, data: DataConfig, task: TaskConfig | None = None) -> RunData:
    """Add what a run knows about its images: the normalization from the configuration, or from the images.

    Args:
        pixels: the images.
        data: data configuration of the run.
        task: task configuration of the run, whose heads name fields.

    Raises:
        UsageError: if the number of means differs from the number of channels, or a head's field does not exist.
    """
    splits, channels = pixels.splits, pixels.image_shape[-1]
    mean, std = data.mean, data.std
    if not mean:
        mean, std = pixels.statistics
    elif len(mean) != channels:
        raise UsageError(f"data.mean has {len(mean)} numbers, the images have {channels} channels")
    else:
        check_normalization(mean, std, dtype=pixels.dtype)
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    train = splits.train.labels
    card = DatasetInfo(
        class_names=pixels.class_names,
        image_shape=pixels.image_shape,
        mean=mean,
        std=std,
        examples={name: len(records) for name, records in parts.items() if records is not None},
        labels=labels_digest(records.labels for records in parts.values() if records is not None),
        image_dtype=pixels.dtype,
        meanings={name: field.meaning for name, field in splits.train.spec.items() if name not in ("image", "label")},
        members=splits.members,
        downscale=data.downscale,
        label_kind=splits.kind,
        label_counts=label_counts(splits.train, splits.kind, len(pixels.class_names)),
        targets={} if task is None else targets_of(task.heads, splits, pixels.class_names),
        **target_scale(train, splits.kind),
        other=pixels.other,
    )
    return RunData(splits, pixels.geometry, card, pixels.stored_shape, pixels.unreadable)


def label_counts(records: Records, kind: LabelKind, count: int) -> tuple[int, ...]:
    """Return the number of examples of each class, or of each label for multi-label; empty for values.

    For segmentation, the number of pixels, if the masks are held in memory.
    """
    labels = records.labels
    match kind:
        case "class":
            found = np.bincount(labels, minlength=count)
        case "multi-label":
            found = labels.sum(axis=0, dtype=np.int64)
        case "segmentation":
            masks = records.fields.get("segmentation") if isinstance(records, ArrayRecords) else None
            if masks is None:
                return ()
            found = np.sum([np.bincount(mask.ravel(), minlength=256)[:count] for mask in masks], axis=0)
        case "value" | "boxes":
            return ()
        case _:
            assert_never(kind)
    return tuple(int(number) for number in found)


def labels_digest(labels: Iterable[np.ndarray]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of labels, (N, ...) per split: they identify which label is where."""
    digest = hashlib.sha256()
    for part in labels:
        stored = "<i4" if np.issubdtype(part.dtype, np.integer) else "<f4"
        digest.update(np.int64(len(part)).tobytes() + np.asarray(part, stored).tobytes())
    return digest.hexdigest()[:16]


def target_scale(labels: np.ndarray, kind: LabelKind) -> dict[str, tuple[float, ...]]:
    """Return ``target_mean`` and ``target_std`` of values to predict, one per target; empty for other labels.

    A constant target has standard deviation 1.
    """
    if kind != "value":
        return {}
    values = labels.reshape(len(labels), -1).astype(np.float64)
    std = values.std(axis=0)
    return {
        "target_mean": tuple(float(value) for value in values.mean(axis=0)),
        "target_std": tuple(float(value) for value in np.where(std > 0, std, 1.0)),
    }
