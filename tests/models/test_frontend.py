"""What the network does to an input before its stem: loudness does not matter, and masks hide spans."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.depth import predict_moments
from resnet_jax.depth.blockwise import chain
from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, create_model
from resnet_jax.models.frontend import apply_frontend, standardized
from tests.tools import random_variables

SOUND = np.random.default_rng(0).normal(size=(3, 800, 1)).astype(np.float32)
MEL = {"frontend": "log_mel", "mel_rate": 8000, "mel_window": 200, "mel_hop": 80, "mel_bands": 24, "spatial_dims": 1}
CONFIG = ResNetConfig((1,), (4,), stem="cifar", in_channels=1, **MEL)  # pyright: ignore[reportArgumentType]


def test_standardized_examples_have_mean_0_and_deviation_1():
    x = np.random.default_rng(1).normal(3.0, 5.0, size=(4, 50, 2))
    expected = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    np.testing.assert_allclose(standardized(jnp.asarray(x, jnp.float32), (1,)), expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(standardized(jnp.full((1, 5, 1), 7.0), (1,)), np.zeros((1, 5, 1)))


@pytest.mark.parametrize("frontend", ["standardize", "log_mel"])
def test_a_louder_sound_is_the_same_to_the_network(frontend):
    model = create_model("resnet20_cifar", stage_sizes=(1,), widths=(4,), num_classes=3, in_channels=1,
                         **{**MEL, "frontend": frontend})  # fmt: skip
    variables = random_variables(model, (800, 1))
    run: Any = model.apply
    quiet, loud = (run(variables, factor * SOUND, train=False) for factor in (0.01, 1.0))
    assert quiet.shape == (3, 3)
    np.testing.assert_allclose(quiet, loud, rtol=1e-3, atol=1e-3)


def test_a_spectrogram_makes_a_network_for_images():
    model = create_model("resnet20_cifar", stage_sizes=(1,), widths=(4,), in_channels=1, **MEL)  # pyright: ignore
    kernel = random_variables(model, (800, 1))["params"]["stem"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 1, 4)


def test_masks_hide_a_span_of_each_axis_and_of_some_examples_another():
    masked = create_model("resnet18", in_channels=1, mel_time_mask=4, mel_band_mask=6, **MEL).config  # pyright: ignore
    whole = apply_frontend(CONFIG, jnp.asarray(SOUND), None)
    found = [apply_frontend(masked, jnp.asarray(SOUND), jax.random.key(seed)) for seed in range(20)]
    hidden = np.stack([np.asarray(one[..., 0] != whole[..., 0]) for one in found]).reshape(-1, *whole.shape[1:3])
    times, bands = hidden.all(axis=2).sum(axis=1), hidden.all(axis=1).sum(axis=1)
    assert set(times) == set(range(5))
    assert set(bands) == set(range(7))
    for one, t, b in zip(hidden, times, bands, strict=True):  # nothing but these spans, each in one piece
        assert one.sum() == t * one.shape[1] + b * (one.shape[0] - t)
        assert np.abs(np.diff(one.all(axis=1).astype(int))).sum() <= 2


def test_no_closed_form_is_promised():
    with pytest.raises(UsageError, match="frontend log_mel"):
        predict_moments(CONFIG, 800)


def test_characters_become_zeros_and_a_one():
    config = ResNetConfig((1,), (4,), stem="cifar", in_channels=1, spatial_dims=1, frontend="one_hot", symbols=5)
    codes = jnp.asarray([[0, 4, 2], [7, -1, 1]], jnp.float32)[..., None]
    expected = np.eye(8)[np.array([[0, 4, 2], [7, 7, 1]])][..., :5]
    np.testing.assert_array_equal(apply_frontend(config, codes, None), expected)
    with pytest.raises(UsageError, match="one_hot takes one number per position, and in_channels is 3"):
        ResNetConfig((1,), (4,), stem="cifar", spatial_dims=1, frontend="one_hot")


@pytest.mark.parametrize("frontend", ["standardize", "log_mel"])
def test_a_network_taken_apart_has_its_front_end_once(frontend):
    """Stem, blocks and the rest one after the other give what the network gives."""
    config = create_model("resnet20_cifar", stage_sizes=(1, 1), widths=(4, 8), in_channels=1, num_classes=3,
                          **{**MEL, "frontend": frontend}).config  # fmt: skip
    model: Any = ResNet(config)
    variables, x = random_variables(model, (800, 1)), jnp.asarray(SOUND)
    expected = model.apply(variables, x, train=False)
    for link in chain(config, variables, train=False):
        x = link.kind(link.variables, jnp.asarray(link.beta), x)
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4)
