"""Kernels for other channels and for volumes: what response they keep, told by networks and by sums."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models import create_model
from resnet_jax.weights.kernels import average_channels, inflate, place_channels, repeat_channels
from resnet_jax.weights.transfer import transfer
from tests.tools import random_variables

RNG = np.random.default_rng(0)
SMALL: dict[str, Any] = {"stage_sizes": (1, 1), "widths": (4, 6), "num_classes": 3, "stem": "cifar"}
DEPTH = 25
#: Of stem, stage1 and stage2: taps of 3, the first of stage2 at stride 2: 3; then 3, 3; then 3, and 3 at stride 2.
STRIDES, FIELDS = {"stem": 1, "stage1": 1, "stage2": 2}, {"stem": 3, "stage1": 7, "stage2": 13}


def features(model, variables, x):
    everything = jax.jit(
        lambda v, x: (model.apply(v, x, train=False, method="features"), model.apply(v, x, train=False))
    )
    return everything(variables, jnp.asarray(x, jnp.float32))


@pytest.fixture(scope="module")
def flat():
    """Return a network of images with its variables, an image, and what it makes of it."""
    model = create_model("resnet20_cifar", **SMALL)
    variables, image = random_variables(model, (8, 8, 3)), RNG.normal(size=(2, 8, 8, 3))
    return variables, image, *features(model, variables, image)


def inflated(variables, how, **choices):
    model = create_model("resnet20_cifar", **SMALL, spatial_dims=3, **choices)
    return model, transfer(variables, model, {}, inflate=how, stem="mean" if choices else "exact")


def test_centre_gives_the_features_of_the_image_everywhere_and_its_outputs(flat):
    variables, image, maps, outputs = flat
    model, volume = inflated(variables, "centre")[0], np.repeat(image[:, None], DEPTH, axis=1)
    found, logits = features(model, inflated(variables, "centre")[1], volume)
    for name in STRIDES:
        np.testing.assert_allclose(found[name], np.repeat(maps[name][:, None], found[name].shape[1], 1), atol=1e-5)
    np.testing.assert_allclose(logits, outputs, atol=1e-5)


def test_mean_gives_them_where_no_window_meets_the_ends_and_nowhere_else(flat):
    variables, image, maps, _ = flat
    model, started = inflated(variables, "mean")
    found, _ = features(model, started, np.repeat(image[:, None], DEPTH, axis=1))
    for name, stride in STRIDES.items():
        reach, places = (FIELDS[name] - 1) / 2, stride * np.arange(found[name].shape[1])
        exact = (places >= reach) & (places <= DEPTH - 1 - reach)
        error = np.abs(np.asarray(found[name]) - np.asarray(maps[name])[:, None]).max(axis=(0, 2, 3, 4))
        assert exact.any()
        assert error[exact].max() < 1e-5
        assert error[~exact].min() > 1e-3


def test_dimensions_and_channels_at_once(flat):
    variables, image, *_ = flat
    grey = np.repeat(image[..., :1], 3, axis=-1)
    model, started = inflated(variables, "centre", in_channels=1)
    small = create_model("resnet20_cifar", **SMALL)
    _, outputs = features(small, variables, grey)
    _, logits = features(model, started, np.repeat(grey[:, None, ..., :1], 4, axis=1))
    np.testing.assert_allclose(logits, outputs, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_sums_over_channels_are_kept(channels):
    kernel = RNG.normal(size=(3, 3, 3, 5))
    np.testing.assert_allclose(average_channels(kernel, channels).sum(2), kernel.sum(2))
    repeated = repeat_channels(kernel, channels)
    assert repeated.shape == (3, 3, channels, 5)
    if channels >= 3:
        for own in range(3):
            np.testing.assert_allclose(repeated[:, :, own::3].sum(2), kernel[:, :, own])


def test_placed_kernels_see_the_named_channels_alone():
    kernel, image = RNG.normal(size=(3, 3, 3, 5)), RNG.normal(size=(3, 3, 6))
    placed = place_channels(kernel, 6, (3, 2, 1))
    np.testing.assert_allclose(
        np.einsum("hwc,hwco->o", image, placed), np.einsum("hwc,hwco->o", image[..., [3, 2, 1]], kernel)
    )


@pytest.mark.parametrize("how", ["mean", "centre"])
def test_the_sum_over_depth_is_the_kernel(how):
    kernel = RNG.normal(size=(3, 3, 2, 5))
    np.testing.assert_allclose(inflate(kernel, 7, how).sum(0), kernel)


@pytest.mark.parametrize(
    ("choices", "asked", "why"),
    [
        ({}, {}, "a kernel of images; inflate 'mean' or 'centre' makes one of volumes"),
        ({}, {"inflate": "center"}, "unknown inflate 'center'; did you mean 'centre'"),
        (
            {"in_channels": 4},
            {"inflate": "mean", "stem": "bands", "bands": (0, 1, 1)},
            "must name 3 different channels of",
        ),
        ({"in_channels": 4}, {"inflate": "mean", "stem": "bands", "bands": (0, 1, 4)}, "of 0 to 3"),
        ({"weight_standardization": "standard"}, {"inflate": "mean"}, "would not keep the response .* is standard"),
    ],
)
def test_what_cannot_be_done_is_said(choices, asked, why):
    small: dict[str, Any] = {**SMALL, "norm": "none", **choices}
    volumes: dict[str, Any] = {**small, "spatial_dims": 3}
    flat: dict[str, Any] = {**small, "in_channels": 3}
    source = create_model("resnet20_cifar", **flat)
    model = create_model("resnet20_cifar", **volumes)
    with pytest.raises(UsageError, match=why):
        transfer(random_variables(source, (8, 8, 3)), model, {}, **asked)
