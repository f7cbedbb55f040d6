"""What the compiled steps of a run do to a batch before the network sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp

from resnet_jax.data.augment import normalize
from resnet_jax.data.example import MEANING_OF_RANK, Field, Meaning
from resnet_jax.data.on_device import Prepare, prepare_with
from resnet_jax.data.transforms import DeviceTransform, divide
from resnet_jax.models.resnet import ResNet
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.training.step import Preprocess, TrainPreprocess


def train_preparation(
    config: RunConfig, card: DatasetInfo, num_classes: int, transforms: Sequence[DeviceTransform] | None = None
) -> Prepare:
    """Return ``prepare(key, batch) -> batch``: the device transforms and normalization of a run's training batches.

    Transforms that are given take the place of the run's.
    """
    shape: tuple[int | None, ...] = card.image_shape
    spec = {"image": Field(shape, card.image_dtype, cast(Meaning, MEANING_OF_RANK.get(len(shape), "array")))}
    spec |= {name: Field((), "", cast(Meaning, meaning)) for name, meaning in card.meanings.items()}
    transforms = divide(config.data.augment).device if transforms is None else transforms
    return prepare_with(transforms, card.mean, card.std, spec=spec, num_classes=num_classes)


def train_preprocess(
    config: RunConfig, model: ResNet, card: DatasetInfo, transforms: Sequence[DeviceTransform] | None = None
) -> TrainPreprocess:
    """Return the device transforms and normalization of a run; with mixup or cutmix it returns soft labels as well.

    Transforms that are given take the place of the run's.
    """
    transforms = divide(config.data.augment).device if transforms is None else transforms
    dtype = jnp.dtype(model.config.dtype)
    mixes = any(getattr(transform, "mixes", False) for transform in transforms)
    prepare = train_preparation(config, card, model.config.num_classes, transforms)

    def preprocess(key, batch):
        found = prepare(key, batch)
        images = found["image"].astype(dtype)
        if card.meanings:  # masks and boxes, which have moved with the images
            return {**found, "image": images}
        return (images, found["label"]) if mixes else images

    return preprocess


def eval_preprocess(model: ResNet, card: DatasetInfo) -> Preprocess:
    """Return the normalization of a run as a ``preprocess`` function without augmentation."""

    def preprocess(_key, batch):
        return normalize(batch["image"], card.mean, card.std, jnp.dtype(model.config.dtype))

    return preprocess
