"""Transforms from outside the package, as documentation: the part between the lines is all that they take."""

from __future__ import annotations

# ---- in a file of your own -------------------------------------------------------------------------------------------
import dataclasses
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data import register_transform


@register_transform("brighter")
@dataclasses.dataclass(frozen=True)
class Brightness:
    """On the device: the normalized image plus a random number, of a key of its own for every example."""

    by: float
    where: ClassVar = "device"
    needs: ClassVar = "normalized"

    def apply(self, batch, keys, spec):
        added = self.by * jax.vmap(jax.random.normal)(keys)
        return {**batch, "image": batch["image"] + jnp.expand_dims(added, (1, 2, 3))}


@register_transform("salt")
@dataclasses.dataclass(frozen=True)
class Salt:
    """On the host: some pixels of an example become white."""

    share: float = 0.1
    where: ClassVar = "host"

    def apply(self, example, rng, spec):
        salted = rng.random(example["image"].shape[:2]) < self.share
        return {**example, "image": np.where(salted[..., None], np.uint8(255), example["image"])}


# ----------------------------------------------------------------------------------------------------------------------

import pytest  # noqa: E402

from resnet_jax.data import ArrayRecords, EvalBatches, TrainBatches  # noqa: E402
from resnet_jax.data.config import DataConfig  # noqa: E402
from resnet_jax.data.on_device import prepare_with  # noqa: E402
from resnet_jax.data.transforms import divide  # noqa: E402
from resnet_jax.errors import UsageError  # noqa: E402
from resnet_jax.runs.data import geometry_of  # noqa: E402

RECORDS = ArrayRecords(np.full((12, 6, 6, 1), 100, np.uint8), np.arange(12) % 2)


def test_on_the_host_it_depends_on_seed_epoch_and_index_alone_and_is_for_training():
    geometry = geometry_of(DataConfig(augment=("salt(0.3)", "flip")))
    batches = TrainBatches(RECORDS, 4, seed=1, geometry=geometry)
    assert not batches.stored
    batch, again = batches.batch(5), TrainBatches(RECORDS, 6, seed=1, geometry=geometry)
    white = (batch["image"] == 255).mean()
    assert 0.1 < white < 0.5
    for image, index in zip(batch["image"], batch["index"], strict=True):  # the same example in a batch of another size
        other = next(
            again.batch(step)["image"][place]
            for step in range(2, 4)
            for place, found in enumerate(again.batch(step)["index"])
            if found == index
        )
        np.testing.assert_array_equal(image, other)
    assert (EvalBatches(RECORDS, 4, geometry).batch(0)["image"] == 100).all()


def test_on_the_device_every_example_has_its_own_draw():
    prepare = prepare_with(divide(["flip", "brighter(0.5)"]).device, (0.5,), (0.25,))
    batch = TrainBatches(RECORDS, 6, seed=1).batch(0)
    images = np.asarray(jax.jit(prepare)(jax.random.key(0), batch)["image"])
    assert len(np.unique(images)) == 6
    assert (images == images[:, :1, :1]).all()


def test_names_are_checked_and_its_lines_are_few():
    with pytest.raises(UsageError, match="did you mean 'brighter'"):
        DataConfig(augment=("brightr(1)",))
    with pytest.raises(UsageError, match="there is a transform called 'flip' already"):
        register_transform("flip")(Salt)
    with pytest.raises(UsageError, match="need a frozen dataclass with a method apply"):
        register_transform("nothing")(int)
    lines = Path(__file__).read_text(encoding="utf-8").split("# ---")[1].splitlines()[1:]
    assert len([line for line in lines if line.strip()]) <= 25 + 5  # two of them


def test_before_the_crop_and_after_it():
    both = divide(["salt(0.1)", "random_resized_crop", "salt(0.2)"])
    assert (both.before, both.after) == ((Salt(0.1),), (Salt(0.2),))
