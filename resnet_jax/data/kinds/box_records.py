"""Images with boxes, whatever their format: clipped to the image, counted, padded to the same number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from resnet_jax.data.boxes import NO_BOX
from resnet_jax.data.example import Example, Field, Spec
from resnet_jax.data.kinds.files import read_bytes, read_image
from resnet_jax.errors import DataError

LONGEST_SIDE = 2**31 - 1
"""Maximum side of an image in pixels, the largest value that its size is stored in."""


@dataclass(frozen=True)
class ImageBoxes:
    """One image and its boxes as given by the format, not yet clipped.

    Attributes:
        path: path of the image.
        sides: height and width in pixels, according to the annotation.
        boxes: (n, 4) top, left, bottom, right.
        labels: (n,) classes.
        flags: (n,) difficult, or a crowd.
        annotation: file, and entry in it, for messages.
    """

    path: str
    sides: tuple[int, int]
    boxes: Sequence[tuple[float, float, float, float]]
    labels: Sequence[int]
    flags: Sequence[bool]
    annotation: str


@dataclass
class Cleaning:
    """What was done to boxes, over all images.

    Attributes:
        outside: number of boxes that extended outside and were clipped.
        farthest: by how much, in pixels.
        empty: number of boxes of which nothing was left, and which were dropped.
    """

    outside: list[str] = field(default_factory=list)
    farthest: float = 0.0
    empty: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        """Return notes on this."""
        notes = ()
        if self.outside:
            notes += (
                f"{len(self.outside):,} boxes reach outside their image, by up to {self.farthest:.3g} pixels, and are "
                f"clipped, such as {self.outside[0]}",
            )
        if self.empty:
            notes += (f"{len(self.empty):,} boxes without area are left out, such as {self.empty[0]}",)
        return notes


@dataclass(frozen=True, eq=False)
class BoxRecords:
    """Image files with boxes; images are read on access.

    Boxes are top, left, bottom, right in pixels (see :mod:`resnet_jax.data.boxes`), padded to ``most`` per image.

    Attributes:
        paths: N images.
        sides: int32 (N, 2), height and width according to the annotations; an image of another size is rejected.
        starts: int64 (N + 1,), where the boxes of each image begin.
        boxes: float32 (T, 4), boxes of all images.
        box_labels: int32 (T,).
        flags: bool (T,).
        flag: name of the flag: ``difficult`` or ``crowd``.
        most: M, number of boxes per example including padding.
        channels: as for image files.
        pixels: as for image files.
        ids: numbers that the source gives its images; empty if it has none.
        category_ids: numbers that it gives its classes, in label order.
    """

    paths: tuple[str, ...]
    sides: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    box_labels: np.ndarray
    flags: np.ndarray
    flag: str
    most: int
    channels: int = 3
    pixels: str = "uint8"
    ids: tuple[int, ...] = ()
    category_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labels(self) -> np.ndarray:
        """Zeros, int32 (N,): an image as a whole has no class."""
        return np.zeros(len(self.paths), np.int32)

    @property
    def counts(self) -> np.ndarray:
        """Number of boxes of each image, (N,)."""
        return np.diff(self.starts)

    @property
    def spec(self) -> Spec:
        dtype, channels = "uint8", self.channels
        if self.pixels == "stored":
            first = read_image(self.paths[0], self.channels, self.pixels)
            dtype, channels = first.dtype.name, first.shape[-1]
        return {
            "image": Field((None, None, channels), dtype, "image"),
            "boxes": Field((self.most, 4), "float32", "boxes"),
            "box_label": Field((self.most,), "int32", "array"),
            self.flag: Field((self.most,), "bool", "array"),
            "label": Field((), "int32", "label"),
        }

    def __getitem__(self, index: int, /) -> Example:
        path = self.paths[index]
        image = read_image(path, self.channels, self.pixels)
        if image.shape[:2] != tuple(self.sides[index]):
            height, width = self.sides[index]
            raise DataError(
                f"{path}: {image.shape[0]} x {image.shape[1]} pixels (height x width), but its annotation says "
                f"{height} x {width}: the boxes are those of another image or size"
            )
        part = slice(self.starts[index], self.starts[index + 1])
        count = part.stop - part.start
        boxes, labels = np.zeros((self.most, 4), np.float32), np.full(self.most, NO_BOX, np.int32)
        flags = np.zeros(self.most, bool)
        boxes[:count], labels[:count], flags[:count] = self.boxes[part], self.box_labels[part], self.flags[part]
        return {"image": image, "boxes": boxes, "box_label": labels, self.flag: flags, "label": np.zeros((), np.int32)}

    def encoded(self, index: int) -> bytes:
        """Return the bytes of image file ``index``."""
        return read_bytes(self.paths[index])

    def describe(self, index: int) -> str:
        return self.paths[index]


def box_records(
    splits: dict[str, list[ImageBoxes]], flag: str, channels: int, pixels: str, cleaning: Cleaning
) -> dict[str, BoxRecords]:
    """Return sources of images with boxes: clipped to the images, boxes without area dropped, both counted.

    Args:
        splits: split -> images.
        flag: name of the flags of boxes.
        channels: as for image files.
        pixels: as for image files.
        cleaning: records what was done.

    Raises:
        DataError: for numbers that are not finite, or images that are too large.
    """
    clean = {split: [_clipped(image, cleaning) for image in images] for split, images in splits.items()}
    most = max((len(boxes) for found in clean.values() for boxes, _, _ in found), default=0)
    records = {}
    for split, images in splits.items():
        found = clean[split]
        records[split] = BoxRecords(
            tuple(image.path for image in images),
            np.array([image.sides for image in images], np.int32).reshape(-1, 2),
            np.concatenate([[0], np.cumsum([len(boxes) for boxes, _, _ in found])]).astype(np.int64),
            np.concatenate([boxes for boxes, _, _ in found]) if found else np.zeros((0, 4), np.float32),
            np.concatenate([labels for _, labels, _ in found]) if found else np.zeros(0, np.int32),
            np.concatenate([flags for _, _, flags in found]) if found else np.zeros(0, bool),
            flag,
            max(most, 1),
            channels,
            pixels,
        )
    return records


def _clipped(image: ImageBoxes, cleaning: Cleaning) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the remaining boxes (n, 4), labels (n,) and flags (n,) of an image."""
    boxes = np.array(image.boxes, np.float64).reshape(-1, 4)
    labels, flags = np.array(image.labels, np.int32), np.array(image.flags, bool)
    if not np.isfinite(boxes).all():
        raise DataError(f"{image.annotation}: a box of {boxes[~np.isfinite(boxes).all(axis=1)][0].tolist()}")
    height, width = image.sides
    if max(image.sides) > LONGEST_SIDE:
        raise DataError(
            f"{image.annotation}: an image of {height} x {width} pixels; a side has at most {LONGEST_SIDE:,}"
        )
    clipped = np.clip(boxes, 0, [height, width, height, width])
    empty = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    reach = np.abs(clipped - boxes).max(axis=1, initial=0)
    beyond = (reach > 0) & ~empty
    cleaning.farthest = max(cleaning.farthest, float(reach[beyond].max(initial=0)))
    for rows, names in ((beyond, cleaning.outside), (empty, cleaning.empty)):
        for row in np.flatnonzero(rows):
            names.append(f"{_said(boxes[row])} in the {height} x {width} pixels of {image.annotation}")
    return clipped[~empty].astype(np.float32), labels[~empty], flags[~empty]


def _said(box: np.ndarray) -> str:
    top, left, bottom, right = (f"{value:g}" for value in box)
    return f"rows {top} to {bottom}, columns {left} to {right}"


def notes_of(records: dict[str, BoxRecords], what: str, cleaning: Cleaning) -> tuple[str, ...]:
    """Describe how many boxes there are, how many images have none, how many are flagged, and what was done to them."""
    images = sum(len(one) for one in records.values())
    boxes = sum(len(one.boxes) for one in records.values())
    without = sum(int((one.counts == 0).sum()) for one in records.values())
    flagged = sum(int(one.flags.sum()) for one in records.values())
    most = max(one.most for one in records.values())
    notes = (f"{boxes:,} boxes in {images:,} images, at most {most:,} in one: fewer are padded with label -1",)
    if without:
        notes += (f"{without:,} images have no boxes and stay",)
    if flagged:
        notes += (f"{flagged:,} boxes are marked {what}: field {next(iter(records.values())).flag}",)
    return (*notes, *cleaning.notes())
