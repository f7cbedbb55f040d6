"""What is at a path: the source, its labels, sizes and channels; examined before anything is chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from resnet_jax.data.folder import FolderRecords
from resnet_jax.data.formats import HEAD_BYTES, identify
from resnet_jax.data.found import KIND_OF_SUFFIX, RECORDS, describe_path, prepared_sets
from resnet_jax.data.kinds.detect import source_at
from resnet_jax.data.manifest import begins_as_json
from resnet_jax.data.records import Dataset, Source, in_memory
from resnet_jax.data.source import load_dataset
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import open_file
from resnet_jax.tasks.facts import LabelKind

SAMPLE = 64
"""Number of evenly spaced examples that are read to determine sizes and channels."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """The facts from which a network, resolution, augmentation, epochs and batch size are chosen.

    Attributes:
        source: the data written as ``data.source``.
        label_kind: what the labels are.
        names: names of the classes, labels or targets.
        examples: split -> number of examples.
        counts: number of training examples (or all, if there is one split) of each class or label; empty for values.
        shapes: shapes of the examples that were read, in the order of the data.
        dtype: dtype of the inputs.
        meaning: image, signal or volume.
        grey: whether all images that were read are gray, even if stored in three channels.
        stored: whether the source holds its arrays in memory.
        notes: notes of the source.
        pixels: what image files must be decoded to without loss: ``stored`` if that is more than 8 bits.
    """

    source: str
    label_kind: LabelKind
    names: tuple[str, ...]
    examples: dict[str, int]
    counts: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    meaning: str
    grey: bool
    stored: bool
    notes: tuple[str, ...]
    pixels: Literal["uint8", "stored"] = "uint8"

    @property
    def train_examples(self) -> int:
        """Number of examples available for training; for a single split, all of it."""
        return self.examples.get("train", self.examples.get("all", 0))

    @property
    def imbalance(self) -> float:
        """Ratio of the most frequent to the rarest non-empty class; 1 for values."""
        given = [count for count in self.counts if count]
        return max(given) / min(given) if given else 1.0

    @property
    def side(self) -> tuple[int, int, int]:
        """Smallest, median and largest shorter side of the examples read, in pixels (for signals, their lengths)."""
        sides = sorted(min(shape[:-1]) for shape in self.shapes)
        return sides[0], sides[len(sides) // 2], sides[-1]

    @property
    def channels(self) -> int:
        """Channels of the inputs as stored."""
        return self.shapes[0][-1]

    @property
    def one_size(self) -> bool:
        """Whether all examples that were read have the same shape."""
        return len(set(self.shapes)) == 1


def look_at(path: str) -> Findings:
    """Examine a data set: list it, count its labels and read a few examples.

    Args:
        path: a folder of images, masks, boxes, sounds or series, an .npz file, a table (CSV, TSV, JSON Lines), a set
            prepared by TFDS; or a source in the syntax of ``data.source``.

    Raises:
        DataError: if it is none of these, or cannot be read; the message says what it is.
        UsageError: for an incomplete source.

    >>> found = look_at("digits")
    >>> found.train_examples, found.side, found.grey, round(found.imbalance, 2)
    (1797, (8, 8, 8), True, 1.05)
    """
    source = source_of(path)
    dataset = load_dataset(source)
    if _holds_more(dataset):
        return findings_of(load_dataset(source, pixels="stored"), source, pixels="stored")
    return findings_of(dataset, source)


def findings_of(dataset: Dataset, source: str, *, pixels: Literal["uint8", "stored"] = "uint8") -> Findings:
    """Examine an open data set; see :func:`look_at`.

    Args:
        dataset: the data.
        source: the data written as ``data.source``.
        pixels: the option it was opened with.

    Raises:
        DataError: if an example cannot be read.
    """
    train = _largest(dataset)
    inputs = [train[int(index)]["image"] for index in _spread(train)]
    match dataset.kind:
        case "class":
            counts = np.bincount(train.labels, minlength=dataset.num_classes)
        case "multi-label":
            counts = train.labels.sum(axis=0).astype(int)
        case "value" | "segmentation" | "boxes":
            counts = np.zeros(0, int)
    return Findings(
        source=source,
        label_kind=dataset.kind,
        names=dataset.class_names,
        examples={split: len(records) for split, records in dataset.splits.items()},
        counts=tuple(int(count) for count in counts),
        shapes=tuple(values.shape for values in inputs),
        dtype=inputs[0].dtype.name,
        meaning=train.spec["image"].meaning,
        grey=all(values.shape[-1] == 1 or (values.shape[-1] == 3 and _is_grey(values)) for values in inputs),
        stored=in_memory(train),
        notes=dataset.notes,
        pixels=pixels,
    )


def _largest(dataset: Dataset) -> Source:
    return dataset.splits["train" if "train" in dataset.splits else "all"]


def _holds_more(dataset: Dataset) -> bool:
    """Return whether all image files read have more than 8 bits per channel, and equally many channels."""
    records = _largest(dataset)
    if not isinstance(records, FolderRecords) or records.pixels == "stored":
        return False
    as_stored = dataclasses.replace(records, channels=0, pixels="stored")
    try:
        found = [as_stored.image(int(index)) for index in _spread(records)[:: SAMPLE // 8]]
    except DataError:
        return False
    return all(image.dtype != np.uint8 for image in found) and len({image.shape[-1] for image in found}) == 1


def source_of(path: str) -> str:
    """Return a path written as a data source.

    Raises:
        DataError: if it is not a data set; the message says what it is.
    """
    place = Path(path).expanduser()
    if not place.exists():
        if ":" in path or path == "digits":
            return path
        raise DataError(f"{path}: there is no such file or folder")
    if (found := source_at(place)) is not None:
        return found[0]
    if place.is_dir():
        prepared = prepared_sets(place)
        if len(prepared) > 1:
            raise DataError(f"{path} holds several prepared sets: {', '.join(source for _, source in prepared)}")
        return prepared[0][1] if prepared else f"folder:{path}"
    suffix = place.suffix.lower()
    if suffix == ".npz":
        return f"npz:{path}"
    with open_file(place) as file:
        begins_as = identify(file.read(HEAD_BYTES))
    if begins_as is not None and begins_as.name == RECORDS:
        return f"array_record:{path}"
    if suffix in (".csv", ".tsv", ".jsonl", ".ndjson") or (suffix in KIND_OF_SUFFIX and begins_as_json(place)):
        return f"manifest:{path}"
    raise DataError(f"{path} is no data set; {describe_path(place)}")


def _spread(records: Source) -> np.ndarray:
    count = min(SAMPLE, len(records))
    return np.arange(count) * len(records) // count


def _is_grey(image: np.ndarray) -> bool:
    return bool((image == image[..., :1]).all())
