"""Whitening filters against the definition, and the stem and the transition that fast networks are made of."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, count, stack_blocks, unstack_blocks
from resnet_jax.models.init import INITIALIZERS
from resnet_jax.models.whitening import PatchMoments, whitened, whitening_filters, whitening_kernel
from tests.tools import random_variables

FAST = ResNetConfig(
    (1, 1), (6, 8), stem="whiten", transition="conv_pool", activation="gelu_erf", head_pool="max", logit_scale=1 / 9,
    num_classes=5,
)  # fmt: skip


def _images(*shape: int) -> np.ndarray:
    """Return images whose neighbouring pixels and channels are alike, as those of cameras."""
    noise = np.random.default_rng(0).normal(size=shape)
    near = noise + 0.9 * np.roll(noise, 1, axis=1) + 0.5 * np.roll(noise, 1, axis=2)
    return near @ np.array([[1.0, 0.8, 0.7], [0.0, 0.4, 0.3], [0.0, 0.0, 0.2]])


@pytest.mark.parametrize("window", [2, 3])
def test_whitened_patches_are_uncorrelated_and_of_unit_variance(window):
    images = _images(20, 9, 8, 3)
    kernel = whitening_kernel([images], window, eps=1e-12).astype(np.float64)
    size = 3 * window**2
    assert kernel.shape == (window, window, 3, 2 * size)
    np.testing.assert_array_equal(kernel[..., size:], -kernel[..., :size])
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        jnp.asarray(images, jnp.float32), jnp.asarray(kernel, jnp.float32), (1, 1), "VALID", dimension_numbers=numbers
    )
    y = np.asarray(y, np.float64)[..., :size].reshape(-1, size)
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(size), atol=2e-3)


def test_filters_are_the_same_whatever_the_parts_and_the_largest_comes_first():
    images = _images(12, 6, 6, 3)
    whole = whitening_kernel([images], 2)
    np.testing.assert_allclose(whitening_kernel([images[:5], images[5:]], 2), whole, rtol=1e-5, atol=1e-6)
    moments = PatchMoments(2)
    moments.add(images)
    lengths = np.linalg.norm(whitening_filters(moments.mean(), eps=0.0)[:, :12], axis=0)
    assert (np.diff(lengths) > 0).all(), "1 / sqrt(s): the largest eigenvalue has the shortest filter"
    bounded = np.linalg.norm(whitening_filters(moments.mean(), eps=1.0)[:, :12], axis=0)
    assert (bounded < np.minimum(lengths, 1.0)).all()


def test_what_cannot_be_whitened_is_said():
    with pytest.raises(UsageError, match="whiten_window 5 is more than these inputs have"):
        whitening_kernel([_images(1, 4, 6, 3)], 5)
    with pytest.raises(UsageError, match="no images"):
        whitening_kernel([], 2)


@pytest.mark.parametrize(("dims", "window", "channels"), [(1, 2, 2), (2, 3, 1), (3, 2, 1)])
@pytest.mark.slow
def test_inputs_of_any_rank_have_a_whitening_stem(dims, window, channels):
    config = dataclasses.replace(FAST, spatial_dims=dims, in_channels=channels, whiten_window=window, norm="none")
    shape = (8,) * dims + (channels,)
    images = np.random.default_rng(0).normal(size=(2, *shape))
    model = ResNet(config)
    variables = random_variables(model, shape)
    kernel = whitening_kernel([images], window)
    assert variables["params"]["stem"]["whiten"]["kernel"].shape == kernel.shape
    params = whitened(variables["params"], jnp.asarray(kernel))
    logits: Any = model.apply({**variables, "params": params}, jnp.asarray(images, jnp.float32), train=False)
    assert logits.shape == (2, 5)


def test_the_kernel_has_no_gradient_and_its_bias_has():
    model, x = ResNet(FAST), jnp.asarray(_images(2, 12, 12, 3), jnp.float32)
    variables = random_variables(model, (12, 12, 3))

    def loss(params):
        logits: Any = model.apply({**variables, "params": params}, x, train=False)
        return jnp.square(logits).sum()

    grads = jax.jit(jax.grad(loss))(variables["params"])["stem"]["whiten"]
    assert not np.asarray(grads["kernel"]).any()
    assert np.abs(grads["bias"]).min() > 0


@pytest.mark.slow
def test_the_network_is_the_composition_of_its_layers():
    """Whitening, then of each stage conv, maximum, norm, activation and a residual block; maximum, classifier / 9."""
    model, x = ResNet(FAST), jnp.asarray(_images(2, 12, 12, 3), jnp.float32)
    variables = random_variables(model, (12, 12, 3))
    params, stats = jax.tree.map(np.asarray, (variables["params"], variables["batch_stats"]))

    def conv(x, kernel, padding):
        pads = ((padding, padding),) * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return np.asarray(lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=numbers))

    def norm(x, params, stats):
        return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]

    def gelu(x):
        return x * np.asarray(jax.scipy.stats.norm.cdf(x))

    y = gelu(conv(x, params["stem"]["whiten"]["kernel"], 0) + params["stem"]["whiten"]["bias"])
    assert y.shape == (2, 11, 11, 24)
    for name, side in (("stage1", 5), ("stage2", 2)):
        p, s = params[name], stats[name]
        y = conv(y, p["transition"]["conv"]["kernel"], 1)[:, : 2 * side, : 2 * side]
        y = y.reshape(2, side, 2, side, 2, -1).max(axis=(2, 4))
        y = gelu(norm(y, p["transition"]["norm"], s["transition"]["norm"]))
        p, s, before = p["block0"]["branch"], s["block0"]["branch"], y
        y = gelu(norm(conv(y, p["conv1"]["kernel"], 1), p["norm1"], s["norm1"]))
        y = gelu(before + norm(conv(y, p["conv2"]["kernel"], 1), p["norm2"], s["norm2"]))
    expected = (y.max(axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]) / 9
    chex.assert_trees_all_close(model.apply(variables, x, train=False), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("execution", ["unroll", "scan"])
def test_blocks_after_a_transition_keep_its_shape_in_any_execution(execution):
    config = dataclasses.replace(FAST, stage_sizes=(1, 3), execution=execution, block="single", shortcut="none")
    model = ResNet(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)), train=False))["params"]
    assert sorted(shapes["stage2"]) == sorted(
        ["transition", "block0", *(["blocks"] if execution == "scan" else ["block1", "block2"])]
    )
    assert shapes["stage2"]["transition"]["conv"]["kernel"].shape == (3, 3, 6, 8)
    assert config.own_stride == 4
    whole = count(model, (12, 12, 3))
    rest = 5 * (8 + 1) + 24 * (12 + 1)
    assert whole.params == rest + 9 * (24 * 6 + 6 * 6 + 6 * 8 + 3 * 8 * 8) + 2 * (2 * 6 + 4 * 8)


def test_a_scanned_stage_with_a_transition_is_the_listed_one():
    config = dataclasses.replace(FAST, stage_sizes=(1, 3))
    listed, scanned = (ResNet(dataclasses.replace(config, execution=execution)) for execution in ("unroll", "scan"))
    x = jnp.asarray(_images(2, 12, 12, 3), jnp.float32)
    variables = random_variables(listed, (12, 12, 3))
    stacked = stack_blocks(variables, "scan")
    assert sorted(stacked["params"]["stage2"]) == ["block0", "blocks", "transition"]
    chex.assert_trees_all_equal(unstack_blocks(stacked), variables)
    found, expected = scanned.apply(stacked, x, train=False), listed.apply(variables, x, train=False)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_logits_are_scaled():
    model, x = ResNet(FAST), jnp.asarray(_images(2, 8, 8, 3), jnp.float32)
    variables = random_variables(model, (8, 8, 3))
    plain: Any = ResNet(dataclasses.replace(FAST, logit_scale=1.0)).apply(variables, x, train=False)
    scaled: Any = model.apply(variables, x, train=False)
    np.testing.assert_allclose(9 * scaled, plain, rtol=1e-5)


def test_dirac_passes_inputs_on_and_draws_the_other_filters():
    kernel = np.asarray(INITIALIZERS["dirac"](jax.random.key(0), (3, 3, 4, 6), jnp.float32))
    x = np.random.default_rng(0).normal(size=(1, 5, 5, 4)).astype(np.float32)
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(jnp.asarray(x), jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=numbers)
    np.testing.assert_array_equal(np.asarray(y)[..., :4], x)
    drawn = np.asarray(INITIALIZERS["torch_uniform"](jax.random.key(0), (3, 3, 4, 6), jnp.float32))
    np.testing.assert_array_equal(kernel[..., 4:], drawn[..., 4:])
    narrow = np.asarray(INITIALIZERS["dirac"](jax.random.key(0), (3, 3, 4, 2), jnp.float32))
    np.testing.assert_array_equal(narrow[1, 1], np.eye(4, 2))
    assert narrow.sum() == 2


def test_instruments_that_know_of_blocks_alone_refuse_a_transition():
    from resnet_jax.depth.blockwise import chain
    from resnet_jax.depth.measure import sample_moments
    from resnet_jax.depth.predict import predict_moments

    variables = random_variables(ResNet(FAST), (12, 12, 3))
    images = jnp.zeros((2, 12, 12, 3))
    with pytest.raises(UsageError, match="not a chain of stem, blocks and classifier"):
        chain(FAST, variables, False)
    with pytest.raises(UsageError, match="not a chain of stem, blocks and classifier"):
        sample_moments(FAST, jax.random.key(0), images)
    strided = dataclasses.replace(FAST, transition="stride", order="pre")
    with pytest.raises(UsageError, match="no closed form is offered for the maximum in transition"):
        predict_moments(dataclasses.replace(FAST, order="pre"), 12)
    with pytest.raises(UsageError, match="no closed form is offered for stem whiten"):
        predict_moments(strided, 12)
