"""``tfds:NAME`` or ``tfds:NAME@DATA_DIR``: a prepared TensorFlow Datasets set, read without TensorFlow.

Only the random-access format ``array_record`` can be read so. Most built-in sets need TensorFlow once, to be
prepared; the error message shows the line to run. Without DATA_DIR, TFDS looks where ``TFDS_DATA_DIR`` says,
else in its default folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from resnet_jax.data.decode import decode_image
from resnet_jax.data.example import Example, Spec, encoded_spec
from resnet_jax.data.reading import Orientation, Reading
from resnet_jax.data.records import Dataset, Records
from resnet_jax.data.registry import register_source
from resnet_jax.data.tfds_labels import read_labels
from resnet_jax.errors import DataError, nearest

SPLITS = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}


@dataclass(frozen=True, eq=False)
class TfdsRecords:
    """One split of a prepared set; images stay encoded until asked for.

    Attributes:
        source: TFDS's random-access source, the image feature left undecoded.
        labels: int32 (N,).
        image_key: the name of the image feature.
        channels: 1 or 3.
        name: for messages.
        encoded_bytes: the size of all records.
        orientation: ``stored``, or ``exif`` to turn images upright.
    """

    source: Any
    labels: np.ndarray
    image_key: str
    channels: int
    name: str
    encoded_bytes: int | None = None
    orientation: Orientation = "stored"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": self.image(index), "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        return encoded_spec(self.channels, self.labels)

    def image(self, index: int) -> np.ndarray:
        """Return image ``index``, decoded."""
        encoded = self.source[index][self.image_key]
        return decode_image(encoded, self.channels, self.describe(index), self.orientation)

    def describe(self, index: int) -> str:
        return f"index {index} of {self.name}"


def load_tfds(
    location: str, channels: int | None = None, least_classes: int = 2, orientation: Orientation = "stored"
) -> Dataset:
    """Open a prepared set and its labels, which reads each record the first time (see `tfds_labels`).

    Splits other than train, validation and test are left out, and so is a split whose labels are all -1,
    TFDS's mark for "not labelled" (ImageNet's test); the notes say so. A set with one split only is taken as ``all``.

    Raises:
        DataError: unknown, not prepared, prepared in another format, or not images with one label.
    """
    import tensorflow_datasets as tfds

    name, _, data_dir = location.partition("@")
    spec = f"tfds:{location}"
    builder = _builder(name, data_dir or None)
    image_key, label_key = _features(builder, spec)
    stored = builder.info.features[image_key].shape[-1]
    channels = channels or (1 if stored == 1 else 3)
    splits: dict[str, Records] = {}
    origins: dict[str, str] = {}
    left_out: list[str] = []
    only = len(builder.info.splits) == 1
    for key in builder.info.splits:
        split = "all" if only else SPLITS.get(key)
        if split is None:
            left_out.append(f"{key} ({builder.info.splits[key].num_examples:,})")
            continue
        try:
            source = builder.as_data_source(key, decoders={image_key: tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            file_format = builder.info.file_format.value
            raise DataError(
                f"{spec}: {builder.data_dir} is in the format {file_format}, which cannot be read at random; "
                f"remove it, then {_how_to_prepare(name, data_dir)}"
            ) from error
        labels = read_labels(source, label_key, builder, key)
        if only or (labels >= 0).any():
            size = int(builder.info.splits[key].num_bytes)
            name_of_split = f"split {key!r} of {spec}"
            splits[split] = TfdsRecords(source, labels, image_key, channels, name_of_split, size, orientation)
            origins[split] = key
        else:
            left_out.append(f"{key} ({len(labels):,}, not labelled)")
    notes = (f"splits left out, with their images: {', '.join(left_out)}",) if left_out else ()
    names = tuple(builder.info.features[label_key].names)
    return Dataset(spec, splits, names, notes, {} if only else origins, least_classes)


@register_source("tfds", form="tfds:NAME or tfds:NAME@DATA_DIR", uses=("orientation",))
def _load(location: str, reading: Reading, /) -> Dataset:
    return load_tfds(location, reading.channels, reading.least_classes, reading.orientation)


def _builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    where = data_dir or "the default folder of TFDS (TFDS_DATA_DIR)"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        close = nearest(name, tfds.list_builders(with_community_datasets=False))
        hint = f"; did you mean {close!r}?" if close else ""
        raise DataError(f"tfds:{name}: no built-in set has this name and {where} holds none{hint}") from error
    except (ValueError, AssertionError) as error:  # not a name, or no such configuration or version
        raise DataError(f"tfds:{name}: {str(error).strip()}") from error
    if not builder.is_prepared():
        raise DataError(f"tfds:{name}: not prepared in {where}; {_how_to_prepare(name, data_dir)}")
    return builder


def _how_to_prepare(name: str, data_dir: str | None) -> str:
    folder = f", data_dir={data_dir!r}" if data_dir else ""
    return (
        "prepare it once with pip install 'resnet-jax[tf]' and\n"
        f'  python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{folder}, '
        "file_format='array_record').download_and_prepare()\""
    )


def _features(builder: Any, spec: str) -> tuple[str, str]:
    """Return the names of the image and of the label: the supervised pair, or the only ones of their kind."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    kinds = {"Image": tfds.features.Image, "ClassLabel": tfds.features.ClassLabel}
    supervised = builder.info.supervised_keys or ()
    chosen = []
    for kind, feature_class in kinds.items():
        keys = sorted(key for key, feature in features.items() if isinstance(feature, feature_class))
        preferred = [key for key in keys if key in supervised]
        if len(preferred or keys) != 1:
            found = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in sorted(features.items()))
            raise DataError(f"{spec}: need one {kind} feature, found {', '.join(keys) or 'none'} (features: {found})")
        chosen.append((preferred or keys)[0])
    return chosen[0], chosen[1]
