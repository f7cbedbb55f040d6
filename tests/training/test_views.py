"""Test-time views: what is seen, and what the average over them is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.tasks.binary import Binary
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.multilabel import MultiLabel
from resnet_jax.tasks.regression import Regression
from resnet_jax.tasks.task import TaskBase
from resnet_jax.training.step import make_eval_step
from resnet_jax.training.views import views_of

RNG = np.random.default_rng(0)


class Weighted:
    """A network of one weight a pixel, so that views differ."""

    def apply(self, variables, images, *, train):
        return images.astype(jnp.float32).reshape(images.shape[0], -1) @ variables["weights"]


def evaluated(images, labels, task, outputs, **options):
    weights = np.random.default_rng(1).normal(size=(4 * 4, outputs)).astype(np.float32)
    batch = {"image": images, "label": labels, "mask": np.ones(len(images), bool)}
    step = jax.jit(make_eval_step(Weighted(), task=task, logits=True, **options))
    out = jax.device_get(step({"weights": weights}, batch))
    plain = [images, images[:, :, ::-1]]
    return out, np.stack([view.reshape(len(view), -1) @ weights for view in plain])


def test_ten_crops_are_the_corners_and_the_centre_and_their_mirror_images():
    images = RNG.normal(size=(2, 7, 8, 3)).astype(np.float32)
    found = np.asarray(views_of(jnp.asarray(images), "ten_crop", 4))
    assert found.shape == (10, 2, 4, 4, 3)
    for row, (top, left) in enumerate([(0, 0), (0, 4), (3, 0), (3, 4), (1, 2)]):
        part = images[:, top : top + 4, left : left + 4]
        np.testing.assert_array_equal(found[row], part)
        np.testing.assert_array_equal(found[row + 5], part[:, :, ::-1])


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "probability"),
    [
        (Classification(3), 3, np.arange(6) % 3, lambda x: jax.nn.softmax(x, axis=-1)),
        (Classification(3, "bce"), 3, np.arange(6) % 3, jax.nn.sigmoid),
        (Binary(), 1, np.arange(6) % 2, jax.nn.sigmoid),
        (MultiLabel(2), 2, RNG.integers(0, 2, (6, 2)).astype(np.float32), jax.nn.sigmoid),
        (Classification(3, "mse"), 3, np.arange(6) % 3, None),
        (Regression(1), 1, RNG.normal(size=6).astype(np.float32), None),
    ],
)
def test_probabilities_are_averaged_and_values_as_they_are(task, outputs, labels, probability):
    images = RNG.normal(size=(6, 4, 4, 1)).astype(np.float32)
    out, plain = evaluated(images, labels, task, outputs, views="flip")
    if probability is None:
        np.testing.assert_allclose(out["rows"]["logits"], plain.mean(0), rtol=1e-5, atol=1e-6)
        return
    expected = np.stack([probability(jnp.asarray(view)) for view in plain]).mean(0)
    np.testing.assert_allclose(probability(out["rows"]["logits"]), expected, rtol=1e-4, atol=1e-6)
    if labels.ndim == 1 and outputs == 3 and task.criterion == "cross_entropy":
        loss = -np.log(expected[np.arange(6), labels]).sum()
        np.testing.assert_allclose(out["loss_sum"], loss, rtol=1e-4)


def test_of_symmetric_images_a_mirror_image_says_nothing_new():
    half = RNG.normal(size=(6, 4, 2, 1)).astype(np.float32)
    images = np.concatenate([half, half[:, :, ::-1]], axis=2)
    both, alone = (evaluated(images, np.arange(6) % 3, Classification(3), 3, views=v)[0] for v in ("flip", "none"))
    np.testing.assert_allclose(both["loss_sum"], alone["loss_sum"], rtol=1e-5)
    assert both["sums"]["correct"] == alone["sums"]["correct"]
    np.testing.assert_array_equal(both["rows"]["prediction"], alone["rows"]["prediction"])


def test_a_task_of_ones_own_averages_its_outputs():
    class Squared(TaskBase):
        def loss(self, outputs, batch):
            return (outputs[:, 0] - batch["label"]) ** 2

    images = RNG.normal(size=(6, 4, 4, 1)).astype(np.float32)
    out, plain = evaluated(images, np.zeros(6, np.float32), Squared(1), 1, views="flip")
    np.testing.assert_allclose(out["loss_sum"], (plain.mean(0) ** 2).sum(), rtol=1e-4)


def test_views_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match=r"ten crops of 5 pixels need larger images than 4x4"):
        views_of(jnp.zeros((2, 4, 4, 1)), "ten_crop", 5)
    with pytest.raises(UsageError, match=r"views are of images \(height, width, channels\), not of \(4, 1\)"):
        views_of(jnp.zeros((2, 4, 1)), "flip")


def test_shifts_by_a_pixel_have_half_of_the_weight():
    images = RNG.normal(size=(2, 5, 6, 3)).astype(np.float32)
    found = np.asarray(views_of(jnp.asarray(images), "flip_shift"))
    frame = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    expected = [images, images, frame[:, 2:, 2:], frame[:, :5, :6]]
    np.testing.assert_array_equal(found, np.stack([*expected, *(view[:, :, ::-1] for view in expected)]))
