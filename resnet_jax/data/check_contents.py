"""What examples contain besides their input: classes, pixels by class, boxes, lengths; counted in parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from resnet_jax.data.example import Example
from resnet_jax.data.kinds.box_records import BoxRecords
from resnet_jax.data.kinds.wav import SoundRecords
from resnet_jax.data.layout import shortened
from resnet_jax.data.records import Dataset

NONE = 255
SLIVER = 2
"""In pixels: a box with a shorter side is usually a labeling mistake."""
SMALL, LARGE = 32**2, 96**2
"""Areas in square pixels between which COCO calls a box medium."""


class Contents(Protocol):
    """Counts what examples contain.

    Attributes:
        counted: what :meth:`counts` counts.
    """

    counted: str

    def add(self, split: str, example: Example) -> None:
        """Count one example."""
        ...

    def join(self, other: Any) -> None:
        """Add the counts of another of the same kind."""
        ...

    def counts(self, dataset: Dataset) -> Mapping[str, Sequence[int]]:
        """Return split -> count of each class; empty if labels are values."""
        ...

    def described(self, dataset: Dataset) -> tuple[list[str], dict[str, Any]]:
        """Return sentences, and the same as numbers for JSON."""
        ...


def contents_for(dataset: Dataset) -> Contents:
    """Return a counter for the examples of a data set."""
    match dataset.kind:
        case "segmentation":
            return MaskContents(dataset.num_classes)
        case "boxes":
            return BoxContents(dataset.num_classes)
        case _:
            return LabelContents()


class LabelContents:
    """Labels of whole examples, which the source has already counted, and lengths of signals."""

    counted = "examples"

    def add(self, split: str, example: Example) -> None:
        """Count nothing."""

    def join(self, other: LabelContents) -> None:
        """Count nothing."""

    def counts(self, dataset: Dataset) -> Mapping[str, Sequence[int]]:
        """Return the number of examples of each class, or with each label."""
        if dataset.kind == "value":
            return {}
        if dataset.kind == "multi-label":
            return {split: source.labels.sum(axis=0).astype(int).tolist() for split, source in dataset.splits.items()}
        return {
            split: np.bincount(source.labels, minlength=dataset.num_classes).tolist()
            for split, source in dataset.splits.items()
        }

    def described(self, dataset: Dataset) -> tuple[list[str], dict[str, Any]]:
        """Describe the distribution of values, and lengths and sampling rates of signals."""
        facts: list[str] = []
        details: dict[str, Any] = {}
        if dataset.kind == "value":
            labels = np.concatenate([source.labels.reshape(len(source), -1) for source in dataset.splits.values()])
            details["targets"] = {}
            for name, column in zip(dataset.class_names, labels.T, strict=True):
                low, high, mean, std = (float(f(column)) for f in (np.min, np.max, np.mean, np.std))
                facts.append(f"target    {name}: {low:.4g} to {high:.4g}, mean {mean:.4g}, std {std:.4g}")
                details["targets"][name] = {"min": low, "max": high, "mean": mean, "std": std}
        sources = dataset.splits.values()
        lengths = [source.lengths for source in sources if isinstance(source, SoundRecords)]
        rates = {source.rate for source in sources if isinstance(source, SoundRecords)}
        if lengths:
            every = np.concatenate(lengths)
            details["lengths"] = {"min": int(every.min()), "median": float(np.median(every)), "max": int(every.max())}
            said = f"lengths   {every.min():,} to {every.max():,} samples as stored (median {np.median(every):,.0f})"
            rate = details["rate"] = rates.pop()
            facts.append(f"{said}, {every.min() / rate:.2f} to {every.max() / rate:.2f} s at {rate:,} Hz")
        return facts, details


class MaskContents:
    """Pixels of every class.

    Args:
        classes: number of classes.
    """

    counted = "pixels"

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.pixels: dict[str, np.ndarray] = {}
        self.images: dict[str, np.ndarray] = {}

    def add(self, split: str, example: Example) -> None:
        """Count the pixels of a mask; the last entry is for no class."""
        values = np.minimum(example["segmentation"], self.classes)
        counts = np.bincount(values.ravel(), minlength=self.classes + 1)
        self._into(self.pixels, split, counts)
        self._into(self.images, split, (counts > 0).astype(np.int64))

    def join(self, other: MaskContents) -> None:
        """Add the counts of another."""
        for split, counts in other.pixels.items():
            self._into(self.pixels, split, counts)
            self._into(self.images, split, other.images[split])

    def _into(self, table: dict[str, np.ndarray], split: str, counts: np.ndarray) -> None:
        table[split] = table.get(split, np.zeros(self.classes + 1, np.int64)) + counts

    def counts(self, dataset: Dataset) -> Mapping[str, Sequence[int]]:
        """Return the number of pixels of each class."""
        empty = np.zeros(self.classes + 1, np.int64)
        return {split: self.pixels.get(split, empty)[:-1].tolist() for split in dataset.splits}

    def described(self, dataset: Dataset) -> tuple[list[str], dict[str, Any]]:
        """Describe how many pixels have no class, and in how many images each class occurs."""
        pixels = sum(self.pixels.values(), np.zeros(self.classes + 1, np.int64))
        images = sum(self.images.values(), np.zeros(self.classes + 1, np.int64))
        share = float(pixels[-1] / max(pixels.sum(), 1))
        seen = {name: int(count) for name, count in zip(dataset.class_names, images[:-1], strict=True)}
        total = sum(len(source) for source in dataset.splits.values())
        rare = sorted(seen.items(), key=lambda item: item[1])[:5]
        facts = [f"masks     {share:.2%} of the pixels have no class"]
        facts.append(
            "          rarest by images: " + ", ".join(f"{name} in {count:,} of {total:,}" for name, count in rare)
        )
        return facts, {"pixels_without_class": share, "images_with_class": seen}


class BoxContents:
    """Boxes of every class, and their sizes.

    Args:
        classes: number of classes.
    """

    counted = "boxes"

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.boxes: dict[str, np.ndarray] = {}
        self.per_image: Counter[int] = Counter()
        self.sizes: list[np.ndarray] = []
        self.shares: list[np.ndarray] = []

    def add(self, split: str, example: Example) -> None:
        """Count the boxes of an image."""
        labels = example["box_label"]
        here = labels >= 0
        counts = np.bincount(labels[here], minlength=self.classes)
        self.boxes[split] = self.boxes.get(split, np.zeros(self.classes, np.int64)) + counts
        self.per_image[int(here.sum())] += 1
        boxes = example["boxes"][here]
        sides = boxes[:, 2:] - boxes[:, :2]
        self.sizes.append(sides)
        height, width = example["image"].shape[:2]
        self.shares.append(sides.prod(axis=1) / (height * width))

    def join(self, other: BoxContents) -> None:
        """Add the counts of another."""
        for split, counts in other.boxes.items():
            self.boxes[split] = self.boxes.get(split, np.zeros(self.classes, np.int64)) + counts
        self.per_image.update(other.per_image)
        self.sizes += other.sizes
        self.shares += other.shares

    def counts(self, dataset: Dataset) -> Mapping[str, Sequence[int]]:
        """Return the number of boxes of each class."""
        empty = np.zeros(self.classes, np.int64)
        return {split: self.boxes.get(split, empty).tolist() for split in dataset.splits}

    def described(self, dataset: Dataset) -> tuple[list[str], dict[str, Any]]:
        """Describe the number of boxes per image, and their sizes."""
        sides = np.concatenate([*self.sizes, np.zeros((0, 2), np.float32)])
        details: dict[str, Any] = {"boxes": len(sides), "boxes_per_image": dict(sorted(self.per_image.items()))}
        counts = sorted(self.per_image.elements())
        if not len(sides):
            return ["boxes     none at all"], details
        area = sides.prod(axis=1)
        small, large = float((area < SMALL).mean()), float((area >= LARGE).mean())
        heights, widths = (np.quantile(sides[:, axis], [0, 0.5, 1]).tolist() for axis in (0, 1))
        share = np.quantile(np.concatenate(self.shares), [0.05, 0.5, 0.95]).tolist()
        slivers = int((sides < SLIVER).any(axis=1).sum())
        details |= {
            "slivers": slivers,
            "heights": heights,
            "widths": widths,
            "small": small,
            "large": large,
            "share_of_image": share,
        }
        middle = counts[len(counts) // 2]
        thin = [f"          {slivers:,} boxes have a side below {SLIVER} pixels{_thinnest(dataset)}"] if slivers else []
        return [
            f"boxes     {len(sides):,}, {counts[0]:,} to {counts[-1]:,} an image (median {middle:,}); "
            f"{self.per_image.get(0, 0):,} images without",
            f"          heights {heights[0]:.4g} to {heights[2]:.4g} pixels (median {heights[1]:.4g}), widths "
            f"{widths[0]:.4g} to {widths[2]:.4g} (median {widths[1]:.4g})",
            f"          {small:.0%} small (below 32 x 32), {large:.0%} large (96 x 96 and more), as COCO calls them; "
            f"the median covers {share[1]:.1%} of its image",
            *thin,
        ], details


def _thinnest(dataset: Dataset) -> str:
    """Name a few images with extremely thin boxes, if the source knows its boxes without reading images."""
    names = []
    for source in dataset.splits.values():
        if isinstance(source, BoxRecords):
            thin = np.flatnonzero((source.boxes[:, 2:] - source.boxes[:, :2] < SLIVER).any(axis=1))
            images = np.unique(np.searchsorted(source.starts, thin, side="right") - 1)
            names += [source.describe(int(image)) for image in images]
    return f": look at {shortened(names, 3)}" if names else ""
