"""The first part of a run's compiled steps: augmentation, normalization, and the outputs of its teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.data.augment import downscaled, normalize
from resnet_jax.data.example import MEANING_OF_RANK, OTHER, Field, Meaning
from resnet_jax.data.on_device import Prepare, prepare_with
from resnet_jax.data.transforms import DeviceTransform, divide
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.towers import TwoTowers
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.default_augment import require_mirrors_keep_classes
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.teacher import Teacher
from resnet_jax.tasks.distillation import TEACHER
from resnet_jax.training.step import Preprocess, TrainPreprocess

#: Folded into the key of the run for the second input.
_OTHER_STREAM = 0x6F746872


def train_preparation(
    config: RunConfig, card: DatasetInfo, num_classes: int, transforms: Sequence[DeviceTransform] | None = None
) -> Prepare:
    """Return ``prepare(key, batch) -> batch``: the device transforms and normalization of a run's training batches.

    Transforms passed as an argument replace the run's.
    """
    shape: tuple[int | None, ...] = card.image_shape
    spec = {"image": Field(shape, card.image_dtype, cast(Meaning, MEANING_OF_RANK.get(len(shape), "array")))}
    spec |= {name: Field((), "", cast(Meaning, meaning)) for name, meaning in card.meanings.items()}
    found = divide(config.data.augment)
    require_mirrors_keep_classes([*found.before, *found.after, *found.device], card.class_names, len(shape))
    transforms = found.device if transforms is None else transforms
    return prepare_with(transforms, card.mean, card.std, spec=spec, num_classes=num_classes)


def train_preprocess(
    config: RunConfig,
    model: ResNet | TwoTowers,
    card: DatasetInfo,
    teacher: Teacher | None = None,
    transforms: Sequence[DeviceTransform] | None = None,
) -> TrainPreprocess:
    """Return the device transforms and normalization of a run; with mixup or cutmix it also returns soft labels.

    With a teacher, it takes the teacher's variables as a third argument, and the returned batch contains the teacher's
    logits for exactly the images that the network sees, including mixed ones (Beyer et al. 2022, arXiv 2106.05237).
    Transforms passed as an argument replace the run's.
    """
    transforms = divide(config.data.augment).device if transforms is None else transforms
    dtype = jnp.dtype(model.config.dtype)
    factor = 1 if any(getattr(transform, "resizes", False) for transform in transforms) else card.downscale
    mixes = any(getattr(transform, "mixes", False) for transform in transforms)
    prepare = train_preparation(config, card, model.config.num_classes, transforms)
    other = None if not _has_two(model) else _other_preparation(config, card)

    def preprocess(key, batch, *given):
        found = prepare(key, batch)
        seen = downscaled(found["image"], factor)
        images = seen.astype(dtype)
        if other is not None:
            return {**found, "image": images, OTHER: other(key, found).astype(dtype)}
        if teacher is not None:
            (variables,) = given
            return {**found, "image": images, TEACHER: teacher.logits(variables, seen)}
        if card.meanings:  # masks and boxes, which have moved with the images
            return {**found, "image": images}
        return (images, found["label"]) if mixes else images

    return preprocess


def _has_two(model: nn.Module) -> bool:
    return OTHER in getattr(model, "inputs", ())


def _other_preparation(
    config: RunConfig, card: DatasetInfo
) -> Callable[[jax.Array, Mapping[str, jax.Array]], jax.Array]:
    """Return ``(key, batch) -> other``: transforms and normalization of the second input, as for the first."""
    assert card.other is not None  # or there is no network of two inputs
    shape = card.other.shape
    spec = {"image": Field(shape, card.other.dtype, cast(Meaning, MEANING_OF_RANK.get(len(shape), "array")))}
    prepare = prepare_with(divide(config.other.augment).device, card.other.mean, card.other.std, spec=spec)

    def preprocess(key: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        alone = {"image": batch[OTHER], "label": batch["label"], "epoch": batch["epoch"], "index": batch["index"]}
        return prepare(jax.random.fold_in(key, _OTHER_STREAM), alone)["image"]

    return preprocess


def eval_preprocess(model: ResNet | TwoTowers, card: DatasetInfo) -> Preprocess:
    """Return the normalization of a run as a ``preprocess`` function without augmentation."""
    dtype = jnp.dtype(model.config.dtype)

    def preprocess(_key, batch):
        images = downscaled(normalize(batch["image"], card.mean, card.std, dtype), card.downscale)
        if not _has_two(model) or card.other is None:
            return images
        return {"image": images, OTHER: normalize(batch[OTHER], card.other.mean, card.other.std, dtype)}

    return preprocess
