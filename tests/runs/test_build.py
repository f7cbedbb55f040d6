"""Choices made between the configuration and the parts of a run."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import Augment, augment, cutout, normalize
from resnet_jax.data.mix import Mix, mix
from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import ArrayRecords
from resnet_jax.data.transform import AS_STORED, Geometry
from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.build import build_model, loss_scaling
from resnet_jax.runs.config import DataConfig, RunConfig, TrainConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.feeding import STEPS_PER_DISPATCH, steps_per_dispatch
from resnet_jax.runs.legacy_augment import with_old_fields
from resnet_jax.runs.preparation import train_preprocess
from resnet_jax.training.loss_scale import LossScaling

RECORDS = ArrayRecords(np.zeros((40, 8, 8, 3), np.uint8), np.arange(40))
BYTES = 40 * 8 * 8 * 3 + 40 * 4


class OnDisk:
    """Records whose images are read one by one."""

    labels, spec = RECORDS.labels, RECORDS.spec

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return RECORDS[index]


def mesh_of(platform, bytes_limit=None) -> Any:
    stats = None if bytes_limit is None else {"bytes_limit": bytes_limit}
    device = SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    return SimpleNamespace(devices=np.array([device]))


def choose(steps, mesh, records: Any = RECORDS, geometry=AS_STORED):
    config = dataclasses.replace(RunConfig(), train=TrainConfig(steps_per_dispatch=steps))
    return steps_per_dispatch(config, TrainBatches(records, 8, seed=0, geometry=geometry), mesh)


def test_steps_per_dispatch_as_asked_for_on_any_platform():
    assert [choose(steps, mesh_of("cpu")) for steps in (1, 7)] == [1, 7]
    assert choose(1, mesh_of("gpu", 10**9)) == 1


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_by_default_several_where_the_training_set_takes_a_quarter_of_the_memory_at_most(platform):
    assert choose(None, mesh_of(platform, 4 * BYTES)) == STEPS_PER_DISPATCH[platform] > 1
    assert choose(None, mesh_of(platform, 4 * BYTES - 1)) == 1
    assert choose(None, mesh_of(platform)) == 1, "a device that does not say how much memory it has"
    assert choose(None, mesh_of("cpu")) == 1


@pytest.mark.parametrize(
    ("records", "geometry", "reason"),
    [
        (
            RECORDS,
            Geometry(8, "random_resized"),
            "data.augment makes other pixels in each epoch, on the host",
        ),
        (OnDisk(), AS_STORED, "the training images are read from digits as they are needed"),
    ],
)
def test_what_cannot_stay_on_the_devices_is_refused_with_the_reason(records, geometry, reason):
    assert choose(None, mesh_of("gpu", 10**9), records, geometry) == 1
    with pytest.raises(UsageError, match=f"train.steps_per_dispatch 2 .*{reason}"):
        choose(2, mesh_of("gpu", 10**9), records, geometry)
    with pytest.raises(UsageError, match="not held in memory"):
        TrainBatches(records, 8, seed=0, geometry=geometry).resident()


CARD = DatasetInfo(("a", "b", "c"), (8, 8, 3), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), {"train": 40})


def prepare(key, batch, dtype="float32", **data):
    config = RunConfig(model=ModelSpec(dtype=dtype), data=DataConfig(augment=with_old_fields((), data)))
    return jax.jit(train_preprocess(config, build_model(config, CARD), CARD))(key, batch)


def test_preparation_is_crop_flip_normalize_cutout_mix_in_this_order_and_rounds_once(key):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
        "label": np.arange(6, dtype=np.int32) % 3,
        "epoch": np.zeros(6, np.int32),
        "index": np.arange(6, dtype=np.int32),
    }
    images = normalize(augment(key, batch, Augment(1, True)), CARD.mean, CARD.std)
    np.testing.assert_allclose(prepare(key, batch, pad=1, flip=True), images, rtol=1e-6, atol=1e-6)
    images = cutout(key, images, batch, 3)
    expected = mix(key, images, batch, Mix(0.4, 1.0, 0.9), 3)
    mixing = {"pad": 1, "flip": True, "cutout": 3, "mixup": 0.4, "cutmix": 1.0, "mix_probability": 0.9}
    found = prepare(key, batch, **mixing)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    half, labels = prepare(key, batch, dtype="bfloat16", **mixing)
    assert (half.dtype, labels.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(half, found[0].astype(jnp.bfloat16))


def test_float16_has_a_loss_scale_and_nothing_else_has():
    def rules(dtype, **train):
        config = RunConfig(model=ModelSpec(dtype=dtype), train=TrainConfig(**train))
        return loss_scaling(config, build_model(config, CARD))

    assert rules("float16") == LossScaling()
    assert rules("float16", loss_scale=LossScaling(8.0, 5)) == LossScaling(8.0, 5)
    assert rules("bfloat16") is None
    with pytest.raises(UsageError, match=r"train.loss_scale goes with model.dtype float16; bfloat16 needs none"):
        rules("bfloat16", loss_scale=LossScaling(8.0))


def test_masks_move_with_the_images_of_a_run(key):
    card = dataclasses.replace(
        CARD, mean=(0.0,) * 3, std=(1 / 255,) * 3, meanings={"mask_of_it": "mask", "age": "array"}
    )
    config = RunConfig(data=DataConfig(augment=("random_crop(2)", "flip")))
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    index = np.arange(6, dtype=np.int32)
    batch = {
        "image": image,
        "mask_of_it": image[..., 0],
        "age": index,
        "label": index,
        "epoch": index * 0,
        "index": index,
    }
    found: Any = jax.jit(train_preprocess(config, build_model(config, card), card))(key, batch)
    assert not np.array_equal(np.rint(found["image"]), image)
    np.testing.assert_array_equal(np.rint(found["image"][..., 0]), found["mask_of_it"])
    np.testing.assert_array_equal(found["age"], index)
