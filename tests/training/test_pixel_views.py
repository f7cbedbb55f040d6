"""Views of pixels: what is said of each is moved back, so that a network of single pixels says the same with all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.tasks import Classification
from resnet_jax.tasks.segmentation import Segmentation
from resnet_jax.training.views import predict_views

IMAGES = np.random.default_rng(0).integers(0, 255, (2, 16, 24, 3), np.uint8)


def of_pixels(_variables, batch):
    """Outputs that depend on a pixel's own colours alone."""
    return batch["image"].astype(jnp.float32) / 50


def at_half(_variables, batch):
    images = of_pixels(_variables, batch)
    return images.reshape(images.shape[0], images.shape[1] // 2, 2, images.shape[2] // 2, 2, 3).mean(axis=(2, 4))


@pytest.mark.parametrize("step", [of_pixels, at_half])
@pytest.mark.parametrize("views", ["flip", "sliding"])
@pytest.mark.slow
def test_flips_and_windows_of_a_network_of_single_pixels_are_the_whole(step, views):
    found = predict_views(step, Segmentation(3), views)({}, {"image": jnp.asarray(IMAGES)})
    whole = jax.nn.log_softmax(step({}, {"image": jnp.asarray(IMAGES)}))
    np.testing.assert_allclose(found, whole, atol=1e-5)


@pytest.mark.slow
def test_scales_of_an_even_image_are_the_whole_and_are_brought_to_its_sides():
    even = jnp.full((1, 16, 24, 3), jnp.array([10, 200, 90], jnp.uint8).reshape(1, 1, 1, 3))
    found = predict_views(at_half, Segmentation(3), "multi_scale")({}, {"image": even})
    np.testing.assert_allclose(found, jax.nn.log_softmax(at_half({}, {"image": even})), atol=1e-5)
    seen = []

    def noted(variables, batch):
        seen.append(batch["image"].shape[1:3])
        return at_half(variables, batch)

    predict_views(noted, Segmentation(3), "multi_scale")({}, {"image": even})
    assert set(seen) == {(12, 18), (16, 24), (20, 30)}


def test_probabilities_are_averaged():
    def left_and_right(_variables, batch):
        images = batch["image"].astype(jnp.float32)
        return jnp.where(jnp.arange(24).reshape(1, 1, 24, 1) < 12, images / 20, -images / 30)

    found = predict_views(left_and_right, Segmentation(3), "flip")({}, {"image": jnp.asarray(IMAGES)})
    one = jax.nn.softmax(left_and_right({}, {"image": jnp.asarray(IMAGES)}))
    other = jax.nn.softmax(left_and_right({}, {"image": jnp.asarray(IMAGES[:, :, ::-1])}))[:, :, ::-1]
    np.testing.assert_allclose(np.exp(found), (one + other) / 2, atol=1e-6)


def test_views_that_do_not_go_are_refused():
    with pytest.raises(UsageError, match=r"views ten_crop are not of task\.kind segmentation"):
        predict_views(of_pixels, Segmentation(3), "ten_crop")
    with pytest.raises(UsageError, match="views sliding are of tasks of pixels"):
        predict_views(of_pixels, Classification(3), "sliding")
    odd = {"image": jnp.zeros((1, 15, 24, 3), jnp.uint8)}
    with pytest.raises(UsageError, match="views sliding needs sides that 8 divides, and these are 15x24"):
        predict_views(of_pixels, Segmentation(3), "sliding")({}, odd)
