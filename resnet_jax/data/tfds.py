"""``tfds:NAME`` or ``tfds:NAME@DATA_DIR``: a prepared TensorFlow Datasets set, read without TensorFlow.

Only the random-access format ``array_record`` is supported; ``resnet-jax data prepare NAME`` writes it. Without
DATA_DIR, TFDS looks in ``TFDS_DATA_DIR``, or else in its default folder.

The image and the class are those that the set defines for supervised training (for cifar100 the fine ``label``, not the
``coarse_label``), or the only image and class there are. Other features of an example, such as ``file_name``, ``id`` or
a bounding box, are left out, which a note reports.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resnet_jax.data.encoded import decode_file
from resnet_jax.data.example import Example, Field, Spec, encoded_spec, spec_of
from resnet_jax.data.reading import Orientation, Pixels, Reading
from resnet_jax.data.records import Dataset, Records
from resnet_jax.data.registry import register_source
from resnet_jax.data.tfds_builder import find_builder, prepared_where
from resnet_jax.data.tfds_examples import PreparedExamples, open_split
from resnet_jax.data.tfds_features import choose_features
from resnet_jax.data.tfds_labels import read_labels
from resnet_jax.errors import DataError

SPLITS = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}


@dataclass(frozen=True, eq=False)
class TfdsRecords:
    """One split of a prepared set; images stay encoded until accessed.

    Attributes:
        source: its examples, not decoded.
        labels: int32 (N,).
        image_key: the name of the image feature.
        channels: 1 or 3; 0 for the stored channels.
        name: its name for messages.
        encoded_bytes: the size of all records.
        pixels: ``uint8``, or ``stored`` for the contents of the images.
        orientation: ``stored``, or ``exif`` to rotate images upright.
    """

    source: PreparedExamples
    labels: np.ndarray
    image_key: str
    channels: int
    name: str
    encoded_bytes: int | None = None
    pixels: Pixels = "uint8"
    orientation: Orientation = "stored"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": self.image(index), "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        if self.pixels == "uint8":
            return encoded_spec(self.channels, self.labels)
        image = spec_of({"image": self.image(0)})["image"]
        stored = Field((None, None, image.shape[-1]), image.dtype, image.meaning)
        return {"image": stored, "label": encoded_spec(self.channels, self.labels)["label"]}

    def image(self, index: int) -> np.ndarray:
        """Return image ``index``, decoded."""
        return decode_file(self.encoded(index), self.channels, self.describe(index), self.pixels, self.orientation)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of image ``index``, as TFDS stores them."""
        return self.source[index][self.image_key]

    def describe(self, index: int) -> str:
        return f"index {index} of {self.name}"


def load_tfds(
    location: str,
    channels: int | None = None,
    least_classes: int = 2,
    pixels: Pixels = "uint8",
    orientation: Orientation = "stored",
) -> Dataset:
    """Open a prepared set and its labels, which reads each record the first time (see `tfds_labels`).

    Splits other than train, validation and test are left out, and so is a split whose labels are all -1, TFDS's mark
    for "not labelled" (ImageNet's test); the notes report this. A set with a single split becomes ``all``.

    Raises:
        DataError: if it is unknown, not prepared, prepared in another format, or not images with one label.
    """
    name, _, data_dir = location.partition("@")
    spec = f"tfds:{location}"
    builder = find_builder(name, data_dir or None)
    if not builder.is_prepared():
        raise DataError(f"tfds:{name}: not prepared in {prepared_where(builder, name, data_dir or None)}")
    chosen = choose_features(builder, spec)
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise DataError(
            f"{spec}: {builder.data_dir} is in the format {file_format}, which cannot be read at random; remove it, "
            f"then resnet-jax data prepare {name}{f' --data-dir {data_dir}' if data_dir else ''}"
        )
    if pixels == "uint8":
        channels = channels or (1 if chosen.channels == 1 else 3)
    splits: dict[str, Records] = {}
    origins: dict[str, str] = {}
    left_out: list[str] = []
    only = len(builder.info.splits) == 1
    for key in builder.info.splits:
        split = "all" if only else SPLITS.get(key)
        if split is None:
            left_out.append(f"{key} ({builder.info.splits[key].num_examples:,})")
            continue
        source = open_split(builder, key, (chosen.image, chosen.label))
        labels = read_labels(source, chosen.label, builder, key)
        if only or (labels >= 0).any():
            size = int(builder.info.splits[key].num_bytes)
            where = f"split {key!r} of {spec}"
            splits[split] = TfdsRecords(source, labels, chosen.image, channels or 0, where, size, pixels, orientation)
            origins[split] = key
        else:
            left_out.append(f"{key} ({len(labels):,}, not labelled)")
    notes = [f"splits left out, with their images: {', '.join(left_out)}"] if left_out else []
    notes += [f"features left out: {', '.join(chosen.others)}"] if chosen.others else []
    return Dataset(spec, splits, chosen.class_names, tuple(notes), {} if only else origins, least_classes)


@register_source("tfds", form="tfds:NAME or tfds:NAME@DATA_DIR", uses=("orientation",))
def _load(location: str, reading: Reading, /) -> Dataset:
    return load_tfds(location, reading.channels, reading.least_classes, reading.pixels, reading.orientation)
