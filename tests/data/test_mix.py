"""Mixup and cutmix against NumPy, their distributions against the exact ones, and the same on any number of devices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.stats import beta, kstest

from resnet_jax.data.mix import Mix, beta_quantiles, box, draws, mix, partner
from resnet_jax.errors import UsageError

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(16, 7, 6, 3)).astype(np.float32)
BATCH = {
    "label": RNG.integers(0, 5, 16).astype(np.int32),
    "epoch": np.full(16, 3, np.int32),
    "index": RNG.permutation(1000)[:16].astype(np.int32),
}
run = jax.jit(mix, static_argnums=(3, 4))
draw = jax.jit(draws, static_argnums=(3, 4))
MANY = jnp.arange(20_000, dtype=jnp.int32)


def by_hand(key, config):
    """One example at a time, from the same words of randomness: (images, labels)."""
    images, labels, onehot = [], [], np.eye(5)[BATCH["label"]]
    for row, (epoch, index) in enumerate(zip(BATCH["epoch"], BATCH["index"], strict=True)):
        stream = jax.random.fold_in(key, 0x6D6978)
        words = jax.random.bits(jax.random.fold_in(jax.random.fold_in(stream, epoch), index), (4,))
        chance, cell, down, right = (np.asarray(words) >> 8) / 2**24
        mixup = chance < config.probability / (2 if config.cutmix else 1) and config.mixup > 0
        cutmix = not mixup and chance < config.probability and config.cutmix > 0
        image, other, share = IMAGES[row].copy(), IMAGES[row ^ 1], 1.0
        alpha = config.mixup if mixup else config.cutmix
        drawn = beta.ppf((np.floor(cell * 4096) + 0.5) / 4096, alpha, alpha) if mixup or cutmix else 1.0
        if mixup:
            share = drawn
            image = share * image + (1 - share) * other
        if cutmix:
            height, width = image.shape[:2]
            tall, wide = int(height * np.sqrt(1 - drawn)) // 2, int(width * np.sqrt(1 - drawn)) // 2
            y, x = int(down * height), int(right * width)
            place = np.s_[max(y - tall, 0) : y + tall, max(x - wide, 0) : x + wide]
            image[place] = other[place]
            share = 1 - image[place].shape[0] * image[place].shape[1] / (height * width)
        images.append(image)
        labels.append(share * onehot[row] + (1 - share) * onehot[row ^ 1])
    return np.stack(images), np.stack(labels)


@pytest.mark.parametrize(
    "config", [Mix(mixup=0.2), Mix(mixup=1.0, probability=0.5), Mix(cutmix=1.0), Mix(0.7, 1.0, probability=0.8)]
)
def test_equals_numpy_one_by_one(key, config):
    images, labels = run(key, IMAGES, BATCH, config, 5)
    expected = by_hand(key, config)
    np.testing.assert_allclose(images, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(labels, expected[1], rtol=1e-5, atol=1e-6)
    assert (np.asarray(images) != IMAGES).any()
    assert (images.dtype, labels.dtype) == (jnp.float32, jnp.float32)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_is_beta_distributed(key, alpha):
    """Its lower half: near 1, float32 rounds what a small alpha draws to 1 itself."""
    share = np.asarray(draw(key, jnp.zeros_like(MANY), MANY, Mix(mixup=alpha), (1, 1))[0], np.float64)
    assert kstest(share[share < 0.5], lambda value: 2 * beta(alpha, alpha).cdf(value)).pvalue > 0.001
    assert abs((share < 0.5).mean() - 0.5) < 5 * 0.5 / np.sqrt(len(MANY))
    quantiles = beta_quantiles(alpha).astype(np.float64)
    np.testing.assert_allclose(quantiles + quantiles[::-1], 1, rtol=1e-6)
    np.testing.assert_allclose(quantiles.var(), beta(alpha, alpha).var(), rtol=1e-3)


def test_the_label_of_cutmix_is_the_share_of_pixels_that_are_left(key):
    share, pixels = draw(key, jnp.zeros_like(MANY), MANY, Mix(cutmix=1.0), (8, 8))
    np.testing.assert_allclose(share, np.asarray(pixels).mean(axis=(1, 2)), rtol=1e-6)
    assert set(np.unique(pixels)) == {0.0, 1.0}


def test_a_box_in_the_middle_has_the_area_asked_for_and_one_in_a_corner_a_quarter_of_it():
    share, middle, corner = jnp.array([0.75, 0.75]), jnp.array([0.5, 0.0]), jnp.array([0.5, 0.0])
    found = np.asarray(box(share, middle, corner, (16, 24)))
    assert found.sum(axis=(1, 2)).tolist() == [8 * 12, 4 * 6]
    assert found[0, 4:12, 6:18].all()
    assert found[1, :4, :6].all()


def test_as_many_are_mixed_as_asked_for_and_half_of_them_each_way(key):
    """Of 20,000 within five standard deviations."""
    _, pixels = draw(key, jnp.zeros_like(MANY), MANY, Mix(1.0, 1.0, probability=0.6), (8, 8))
    pixels = np.asarray(pixels).reshape(len(MANY), -1)
    blended = ((pixels > 0) & (pixels < 1)).all(axis=1).mean()
    whole = (pixels == 1).all(axis=1).mean()
    assert abs(blended - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(MANY))
    assert 0.4 - 5 * np.sqrt(0.4 * 0.6 / len(MANY)) < whole < 0.5  # and the boxes that are empty


def test_partners_are_each_others_and_the_last_of_an_odd_batch_is_alone(key):
    rows = jnp.arange(10).reshape(5, 2)
    np.testing.assert_array_equal(partner(partner(rows)), rows)
    odd = {name: value[:5] for name, value in BATCH.items()}
    images, labels = run(key, IMAGES[:5], odd, Mix(mixup=1.0), 5)
    np.testing.assert_allclose(images[4], IMAGES[4], rtol=1e-6)
    np.testing.assert_allclose(labels[4], np.eye(5)[BATCH["label"][4]], rtol=1e-6)


def test_an_example_that_is_not_mixed_is_untouched_whatever_its_partner(key):
    infinite = IMAGES.copy()
    infinite[1] = np.inf
    images, labels = run(key, infinite, BATCH, Mix(mixup=1.0, probability=1e-9), 5)
    np.testing.assert_array_equal(images[0], IMAGES[0])
    np.testing.assert_array_equal(labels, np.eye(5)[BATCH["label"]])


def test_key_epoch_and_index_all_matter(key):
    size = (4, 4)
    base = draw(key, BATCH["epoch"], BATCH["index"], Mix(1.0), size)[0]
    for other in (
        draw(jax.random.key(1), BATCH["epoch"], BATCH["index"], Mix(1.0), size)[0],
        draw(key, BATCH["epoch"] + 1, BATCH["index"], Mix(1.0), size)[0],
        draw(key, BATCH["epoch"], BATCH["index"] + 1000, Mix(1.0), size)[0],
    ):
        assert (np.asarray(base) != np.asarray(other)).mean() > 0.9


def test_soft_labels_can_be_mixed_again_and_values_are_mixed_as_one_column(key):
    soft = {**BATCH, "label": np.eye(5, dtype=np.float32)[BATCH["label"]]}
    hard = run(key, IMAGES, BATCH, Mix(mixup=1.0), 5)
    np.testing.assert_array_equal(run(key, IMAGES, soft, Mix(mixup=1.0), 0)[1], hard[1])
    values = np.linspace(-1, 1, 16, dtype=np.float32)
    found = run(key, IMAGES, {**BATCH, "label": values}, Mix(mixup=1.0), 5)[1]
    as_column = run(key, IMAGES, {**BATCH, "label": values[:, None]}, Mix(mixup=1.0), 5)[1]
    np.testing.assert_array_equal(found, as_column)


def test_sharded_over_devices_it_is_the_same_and_nothing_is_communicated(key):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    config = Mix(1.0, 1.0)
    images, batch = jax.device_put((IMAGES, BATCH), sharding)
    step = jax.jit(functools.partial(mix, config=config, num_classes=5), out_shardings=sharding)
    compiled = step.lower(key, images, batch).compile()
    for found, expected in zip(compiled(key, images, batch), run(key, IMAGES, BATCH, config, 5), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    text = compiled.as_text()
    assert text
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "collective") if word in text]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixup": -0.1}, "mixup -0.1 must be a finite alpha of 0 or more"),
        ({"cutmix": float("inf")}, "cutmix inf must be a finite alpha"),
        ({"probability": 1.5}, r"must be in \[0, 1\], got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        Mix(**fields)
    assert not Mix()
    assert not Mix(mixup=1.0, probability=0.0)


def test_a_label_of_no_class_stays_one_when_mixed(key):
    """Rows of zeros would be ignored by the loss in silence."""
    batch = {"label": jnp.array([0, 5, 1, 2]), "epoch": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    _, rows = run(key, jnp.zeros((4, 4, 4, 1)), batch, Mix(mixup=1.0), 3)
    assert np.isnan(rows[:2]).any(axis=1).all()
    assert np.isfinite(rows[2:]).all()
