"""Which features of a TFDS set are the image and the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnet_jax.errors import DataError
from resnet_jax.runtime.limits import CLASSES


@dataclass(frozen=True)
class Chosen:
    """The features of a set that are read.

    Attributes:
        image: name of the image feature.
        label: name of the class feature.
        channels: channels of the image, according to the set; None if unknown.
        class_names: class names in label order.
        others: name and kind of the features that are left out.
    """

    image: str
    label: str
    channels: int | None
    class_names: tuple[str, ...]
    others: tuple[str, ...]


def choose_features(builder: Any, spec: str) -> Chosen:
    """Return the supervised pair, or the only image and the only class.

    Args:
        builder: builder of the set.
        spec: the source, for messages.

    Raises:
        DataError: if the set is not one of images with one class each; the message says what it is.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    items = dict(features.items()) if hasattr(features, "items") else {}
    listed = ", ".join(f"{key}: {_kind(feature)}" for key, feature in sorted(items.items())) or _kind(features)
    image_kind, label_kind = tfds.features.Image, tfds.features.ClassLabel
    supervised = builder.info.supervised_keys
    given, target = supervised[:2] if supervised else (None, None)
    if target is not None and not isinstance(items.get(target), label_kind):
        raise DataError(
            f"{spec}: its examples are labelled by {target!r}, {_what(items.get(target), image_kind)}; sets of images "
            f"with one class each are read (features: {listed})"
        )
    image = str(given) if isinstance(items.get(given), image_kind) else _only(items, image_kind, "Image", spec, listed)
    label = target or _only(items, label_kind, "ClassLabel", spec, listed)
    if str(getattr(items[image], "np_dtype", "")).find("float") >= 0:
        raise DataError(f"{spec}: {image!r} holds floating-point pixels in TFDS's own encoding, which is not read")
    if (classes := int(items[label].num_classes or 0)) > CLASSES.value:
        raise DataError(f"{spec}: {label!r} has {classes:,} classes; {CLASSES.how}")
    others = tuple(f"{key} ({_kind(items[key])})" for key in sorted(items) if key not in (image, label))
    return Chosen(image, label, items[image].shape[-1], tuple(items[label].names), others)


def _only(items: dict[str, Any], kind: type, name: str, spec: str, listed: str) -> str:
    """Return the only feature of a kind."""
    keys = sorted(key for key, feature in items.items() if isinstance(feature, kind))
    if len(keys) != 1:
        raise DataError(f"{spec}: need one {name} feature, found {', '.join(keys) or 'none'} (features: {listed})")
    return keys[0]


def _kind(feature: Any) -> str:
    inner = getattr(feature, "feature", None)
    return f"{type(feature).__name__}({_kind(inner)})" if inner is not None else type(feature).__name__


def _what(feature: Any, image_kind: type) -> str:
    """Describe a label that is not a class."""
    if isinstance(feature, image_kind):
        return "an image with the class of every pixel (segmentation)"
    if feature is not None and _kind(feature) == "Sequence(ClassLabel)":
        return "several classes an example"
    return f"a {_kind(feature)}" if feature is not None else "no feature of its own"
