from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from resnet_jax.data.augment import Augment, augment, crop, cutout, draws, example_keys, mirror, normalize
from resnet_jax.errors import UsageError

RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(1, 256, (16, 6, 5, 3), np.uint8),
    "epoch": np.full(16, 3, np.int32),
    "index": RNG.permutation(1000)[:16].astype(np.int32),
}
run = jax.jit(augment, static_argnums=2)


def by_hand(key, batch, config):
    """One image at a time in NumPy, from the same words of randomness."""
    result = []
    for image, epoch, index in zip(batch["image"], batch["epoch"], batch["index"], strict=True):
        word, last = np.asarray(
            jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, epoch), index), (2,))
        ).tolist()
        positions = 2 * config.pad + 1
        top, left = (word >> 16) * positions >> 16, (word & 0xFFFF) * positions >> 16
        height, width, _ = image.shape
        frame = np.pad(image, ((config.pad,) * 2, (config.pad,) * 2, (0, 0)))
        image = frame[top : top + height, left : left + width]
        result.append(image[:, ::-1] if config.flip and last >> 31 else image)
    return np.stack(result)


@pytest.mark.parametrize("config", [Augment(2, True), Augment(1, False), Augment(0, True)])
def test_equals_numpy_one_by_one(key, config):
    found = run(key, BATCH, config)
    assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(found, by_hand(key, BATCH, config))
    assert (np.asarray(found) != BATCH["image"]).any()


def test_nothing_asked_nothing_done(key):
    assert augment(key, BATCH, Augment()) is BATCH["image"]


def test_an_example_is_treated_alike_wherever_it_is_in_a_batch(key):
    config, order = Augment(2, True), RNG.permutation(16)
    expected = run(key, BATCH, config)
    permuted = {name: value[order] for name, value in BATCH.items()}
    np.testing.assert_array_equal(run(key, permuted, config), np.asarray(expected)[order])
    alone = {name: value[5:6] for name, value in BATCH.items()}
    np.testing.assert_array_equal(run(key, alone, config)[0], expected[5])


def test_key_epoch_and_index_all_matter(key):
    epoch, index = BATCH["epoch"], BATCH["index"]
    data = {
        "base": example_keys(key, epoch, index),
        "key": example_keys(jax.random.key(1), epoch, index),
        "epoch": example_keys(key, epoch + 1, index),
        "index": example_keys(key, epoch, index + 1000),
    }
    words = np.concatenate([np.asarray(jax.random.key_data(k)) for k in data.values()])
    assert len(np.unique(words, axis=0)) == 4 * 16


def test_offsets_and_flips_are_uniform_and_independent(key):
    """Chi-square over the 7 x 7 x 2 outcomes of 20,000 draws: 97 degrees of freedom, 99.9 % quantile 148."""
    count = 20_000
    index = jnp.arange(count, dtype=jnp.int32)
    top, left, flip = jax.jit(draws, static_argnums=3)(key, jnp.zeros_like(index), index, 3)
    outcome = (np.asarray(top) * 7 + np.asarray(left)) * 2 + np.asarray(flip)
    counts = np.bincount(outcome, minlength=98)
    assert len(counts) == 98
    assert ((counts - count / 98) ** 2 / (count / 98)).sum() < 148


def test_crop_at_the_pad_is_the_identity_and_at_the_ends_shows_the_frame():
    images = jnp.asarray(BATCH["image"])
    pad = jnp.full(16, 2)
    np.testing.assert_array_equal(crop(images, pad, pad, 2), images)
    corner = np.asarray(crop(images, 0 * pad, 2 * pad, 2))
    assert not corner[:, :2].any()
    assert not corner[:, :, -2:].any()
    np.testing.assert_array_equal(corner[:, 2:, :-2], BATCH["image"][:, :-2, 2:])


def test_mirror_twice_is_the_identity():
    images = jnp.asarray(BATCH["image"])
    np.testing.assert_array_equal(mirror(mirror(images)), images)
    np.testing.assert_array_equal(mirror(images)[:, :, 0], images[:, :, -1])


def test_sharded_over_devices_it_is_the_same_and_nothing_is_communicated(key):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    config = Augment(2, True)
    batch = jax.device_put(BATCH, sharding)
    step = jax.jit(functools.partial(augment, config=config), out_shardings=sharding)
    compiled = step.lower(key, batch).compile()
    np.testing.assert_array_equal(compiled(key, batch), run(key, BATCH, config))
    text = compiled.as_text()
    assert text
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "collective") if word in text]


def cut_by_hand(key, images, batch, side):
    """One image at a time in NumPy, from the same words of randomness."""
    result = np.array(images)
    height, width = images.shape[1:3]
    for image, epoch, index in zip(result, batch["epoch"], batch["index"], strict=True):
        stream = jax.random.fold_in(key, 0x637574)
        word = int(jax.random.bits(jax.random.fold_in(jax.random.fold_in(stream, epoch), index), ()))
        row, column = (word >> 16) * height >> 16, (word & 0xFFFF) * width >> 16
        top, left = row - side // 2, column - side // 2
        image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    return result


@pytest.mark.parametrize("side", [1, 2, 3, 9])
def test_cutout_equals_numpy_one_by_one(key, side):
    images = RNG.uniform(1, 2, BATCH["image"].shape).astype(np.float32)
    found = jax.jit(cutout, static_argnums=3)(key, images, BATCH, side)
    np.testing.assert_array_equal(found, cut_by_hand(key, images, BATCH, side))
    gone = (np.asarray(found) == 0).all(axis=3).sum(axis=(1, 2))
    assert gone.min() >= 1
    assert gone.max() == min(side, 6) * min(side, 5)


def test_every_pixel_is_cut_out_as_often(key):
    """Chi-square over the 30 places of 20,000 draws: 29 degrees of freedom, 99.9 % quantile 58."""
    index = jnp.arange(20_000, dtype=jnp.int32)
    batch = {"epoch": jnp.zeros_like(index), "index": index}
    counts = (
        20_000
        - np.asarray(jax.jit(cutout, static_argnums=3)(key, jnp.ones((20_000, 6, 5, 1)), batch, 1)).sum(axis=0).ravel()
    )
    assert ((counts - 20_000 / 30) ** 2 / (20_000 / 30)).sum() < 58


def test_no_cutout_does_nothing_and_a_negative_one_is_refused(key):
    images = jnp.ones((16, 4, 4, 1))
    assert cutout(key, images, BATCH, 0) is images
    with pytest.raises(UsageError, match="cutout -1 must be a side of 0 or more pixels"):
        Augment(cutout=-1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalize_equals_float64(dtype):
    mean, std = np.array([0.485, 0.456, 0.406]), (0.229, 0.224, 0.225)
    found = normalize(jnp.asarray(BATCH["image"]), mean, std, dtype)
    assert found.dtype == dtype
    expected = (BATCH["image"] / 255 - mean) / np.array(std)
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=tolerance, atol=1e-6)


def test_normalize_rounds_once_to_bfloat16():
    images, mean, std = jnp.asarray(BATCH["image"]), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    full = normalize(images, mean, std)
    assert (normalize(images, mean, std, jnp.bfloat16) == full.astype(jnp.bfloat16)).all()


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5, 0.5)), ((0.5, 0.5, 0.5), 0.5)])
def test_normalize_needs_one_number_a_channel(mean, std):
    with pytest.raises(UsageError, match=r"need one number for each of the 3 channels, shape \(3,\)"):
        normalize(jnp.asarray(BATCH["image"]), mean, std)


@pytest.mark.parametrize("pad", [-1, 2**15])
def test_pad_out_of_range(pad):
    with pytest.raises(UsageError, match=f"pad {pad} must be at least 0 and below 32768"):
        Augment(pad)
