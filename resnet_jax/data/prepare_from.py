"""A TFDS set prepared from another local data set: nothing is downloaded, and TensorFlow is not needed.

The result has the features of the set, so that any reader of TFDS opens it. Image files are copied unchanged, arrays
become PNG. Examples keep the order of the source; TFDS's own preparation shuffles them.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.cifar_names import CIFAR10, CIFAR100, SUPERCLASSES, superclass
from resnet_jax.data.classes import are_numbers, match_classes
from resnet_jax.data.decode import NPY
from resnet_jax.data.encoded import decode_file, encoder_of
from resnet_jax.data.formats import HEAD_BYTES, identify
from resnet_jax.data.headers import shape_in_header
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset, Source
from resnet_jax.data.source import load_dataset
from resnet_jax.data.tfds_features import choose_features
from resnet_jax.data.tfds_light import to_png
from resnet_jax.errors import DataError, UsageError

SPLITS = {"all": "train", "train": "train", "val": "validation", "test": "test"}
"""Our names of splits -> those of TFDS."""
KNOWN_NAMES = {"cifar10": CIFAR10, "cifar100": CIFAR100}
"""Class names of sets that TFDS reads from their archives."""


def take_examples_from(builder: Any, spec: str, say: Callable[[str], None], done: Callable[[int], None]) -> Dataset:
    """Make a builder take its examples from a data set, in the order of that data set.

    Args:
        builder: builder of the set, not prepared.
        spec: the data set, as for :func:`load_dataset`.
        say: called with what is worth knowing, such as how classes were matched.
        done: called now and then with the number of examples written.

    Returns:
        The data set.

    Raises:
        DataError: if the data set has other classes, or lacks a feature of the set.
        UsageError: if the set cannot be made from images with one class each.
    """
    import tensorflow_datasets as tfds

    name = f"tfds:{builder.name}"
    if not isinstance(builder, tfds.core.GeneratorBasedBuilder):
        raise UsageError(f"{name} is no set of images that is written here, but a {type(builder).__mro__[1].__name__}")
    chosen = choose_features(builder, name)
    features: Any = builder.info.features
    dataset = load_dataset(spec, Reading(chosen.channels if chosen.channels in (1, 3) else None, least_classes=1))
    if dataset.kind != "class":
        raise UsageError(f"{spec} has labels of kind {dataset.kind!r}; {name} has one class an image")
    outputs, names = _match(builder.name, dataset, features[chosen.label], say)
    if names is not None:
        features[chosen.label].names = list(names)
    fillers = {key: _filler(builder.name, key, features[key], dataset) for key in _others(features, chosen)}
    if "coarse_label" in fillers and builder.name == "cifar100":
        features["coarse_label"].names = list(SUPERCLASSES)
    total = sum(len(records) for records in dataset.splits.values())

    def examples(split: str, records: Source) -> Iterator[tuple[int, dict[str, Any]]]:
        image_of = functools.partial(_image, records, encoder_of(records), features[chosen.image], name)
        before = sum(len(other) for key, other in dataset.splits.items() if list(dataset.splits).index(key) < at[split])
        for index in range(len(records)):
            label = int(outputs[int(records.labels[index])])
            example = {chosen.image: io.BytesIO(image_of(index)), chosen.label: label}
            example |= {key: fill(records, SPLITS[split], index, label) for key, fill in fillers.items()}
            if index % 500 == 0:
                done(before + index)
            yield index, example
        done(min(before + len(records), total))

    at = {split: place for place, split in enumerate(dataset.splits)}

    def generators(dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {SPLITS[split]: examples(split, records) for split, records in dataset.splits.items()}

    builder._split_generators = generators
    builder.info.as_proto.disable_shuffling = True
    return dataset


def _match(
    set_name: str, dataset: Dataset, feature: Any, say: Callable[[str], None]
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return the label in the set of every class of the data set, and the names to give the set if it has none."""
    count = feature.num_classes
    ours = tuple(feature.names) if count is not None else dataset.class_names
    known = KNOWN_NAMES.get(set_name) if are_numbers(ours) else None
    nameless = known is None and are_numbers(ours) and len(dataset.class_names) == count
    if nameless and not all(name.isdecimal() for name in dataset.class_names):
        say(f"TFDS has no class names of {set_name} before it is downloaded: those of {dataset.name}, in its order")
        return np.arange(len(dataset.class_names)), dataset.class_names
    try:
        matching = match_classes(dataset.class_names, known or ours, source=dataset.name, network=f"TFDS's {set_name}")
    except UsageError as error:
        raise DataError(str(error).replace("the network", f"TFDS's {set_name}").partition(". Rename")[0]) from error
    for line in matching.said:
        say(line.replace("the network's", f"{set_name}'s").replace("the network", set_name))
    return matching.outputs, known


def _others(features: Any, chosen: Any) -> list[str]:
    return [key for key, _ in features.items() if key not in (chosen.image, chosen.label)]


Filler = Callable[[Source, str, int, int], Any]
"""(records, split, index, label) -> the value of a feature."""


def _filler(set_name: str, key: str, feature: Any, dataset: Dataset) -> Filler:
    """Return a function that fills a feature other than image and class.

    Raises:
        DataError: if the data set lacks it and it cannot be derived.
    """
    first = next(iter(dataset.splits.values()))
    kind = type(feature).__name__
    if key in first.spec:
        return lambda records, split, index, label: _plain(records[index][key])
    if kind == "Text" and key == "id":
        return lambda records, split, index, label: f"{split}_{index:05d}"
    if kind == "Text" and key.rpartition("/")[2].replace("_", "") == "filename":
        return lambda records, split, index, label: Path(records.describe(index).rstrip(")")).name
    if set_name == "cifar100" and key == "coarse_label":
        return lambda records, split, index, label: superclass(label)
    raise DataError(
        f"TFDS's {set_name} has a feature {key!r} ({kind}) of every example, which {dataset.name} does not have (its "
        f"examples hold {', '.join(first.spec)}): prepare it from TFDS's own download, or open {dataset.name} itself"
    )


def _plain(value: np.ndarray) -> Any:
    return value.item() if np.ndim(value) == 0 else value


def _image(
    records: Source,
    encoder: tuple[Callable[[int], bytes], int] | None,
    feature: Any,
    name: str,
    index: int,
) -> bytes:
    """Return an image of the data set as the bytes of a file, with the shape that the set has.

    Raises:
        DataError: if it has another shape, or is not an integer image.
    """
    wanted = tuple(feature.shape)
    if encoder is not None:
        data = encoder[0](index)
        if not data.startswith(NPY):
            found = identify(data[:HEAD_BYTES])
            if found is None or not found.readable:
                raise DataError(f"{records.describe(index)}: this is no image file; restore it or remove it")
            sides = shape_in_header(data) or decode_file(data, encoder[1], records.describe(index)).shape[:2]
            _check_shape((*sides, None), wanted, records, index, name)
            return data
    image = records[index]["image"]
    if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.dtype != np.dtype(feature.np_dtype):
        raise DataError(
            f"{records.describe(index)} is {image.dtype} {image.shape}; {name} has images of "
            f"{np.dtype(feature.np_dtype)} {wanted}"
        )
    _check_shape(image.shape, wanted, records, index, name)
    return to_png(image)


def _check_shape(found: Any, wanted: Any, records: Source, index: int, name: str) -> None:
    if any(None not in (side, needed) and side != needed for side, needed in zip(found, wanted, strict=True)):
        sides = " x ".join(str(side) for side in wanted[:2])
        raise DataError(
            f"{records.describe(index)} is {' x '.join(str(side) for side in found if side is not None)}; images of "
            f"{name} are {sides} with {wanted[2]} channels"
        )
