"""Batch normalization against its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.models import BatchNorm


def run(x, *, train=True, **choices):
    norm = BatchNorm(**choices)
    variables = norm.init(jax.random.key(0), x, train=False)
    if not train:
        return norm.apply(variables, x, train=False), variables
    return norm.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.fixture
def x():
    return 3.0 + 2.0 * jax.random.normal(jax.random.key(1), (4, 5, 5, 3))


def test_train_mode_normalizes_by_the_batch(x):
    y, _ = run(x)
    flat = np.asarray(x, np.float64).reshape(-1, 3)
    expected = (np.asarray(x) - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_one_step_moves_the_running_averages_by_one_minus_momentum(x, momentum):
    """The convention is Flax's: 0.9 keeps 90 % of the old value (PyTorch calls that 0.1)."""
    _, updates = run(x, momentum=momentum)
    flat = np.asarray(x, np.float64).reshape(-1, 3)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], (1 - momentum) * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], momentum + (1 - momentum) * flat.var(0), rtol=1e-5)


def test_eval_mode_uses_the_running_averages_and_needs_nothing_mutable(x):
    y, variables = run(x, train=False)
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)
    y, updates = BatchNorm().apply(variables, x, train=False, mutable=["batch_stats"])
    np.testing.assert_array_equal(updates["batch_stats"]["mean"], variables["batch_stats"]["mean"])
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_the_mode_is_never_inferred(x):
    with pytest.raises(TypeError, match="train"):
        BatchNorm().init(jax.random.key(0), x)
    _, variables = run(x, train=False)
    with pytest.raises(ValueError, match="mutable="):
        BatchNorm().apply(variables, x, train=True)


def test_variance_does_not_cancel_far_from_zero():
    """Mean 100, deviation 0.01: E[x^2] - E[x]^2 in float32 gives 0 or thirty times too much."""
    x = 100.0 + 0.01 * jax.random.normal(jax.random.key(0), (64, 4, 4, 3))
    _, updates = run(x, momentum=0.0)
    exact = np.asarray(x, np.float64).reshape(-1, 3).var(0)
    np.testing.assert_allclose(updates["batch_stats"]["var"], exact, rtol=1e-3)


def test_bfloat16_input_has_float32_statistics():
    x = jax.random.normal(jax.random.key(0), (256, 4, 4, 2)).astype(jnp.bfloat16)
    y, updates = run(x, momentum=0.0)
    exact = np.asarray(x, np.float64).reshape(-1, 2)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates["batch_stats"]["mean"], exact.mean(0), atol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], exact.var(0), rtol=1e-5)


def test_equals_flax_in_values_and_gradients(x):
    ours, theirs = BatchNorm(), nn.BatchNorm(momentum=0.9, use_running_average=False)
    variables = ours.init(jax.random.key(0), x, train=False)
    params = {"scale": jnp.array([1.0, -2.0, 0.5]), "bias": jnp.array([0.1, 0.2, -0.3])}

    def value(apply, params, x):
        y, updates = apply({**variables, "params": params}, x)
        return jnp.sum(jnp.sin(y)), updates

    def our_apply(v, x):
        return ours.apply(v, x, train=True, mutable=["batch_stats"])

    def their_apply(v, x):
        return theirs.apply(v, x, mutable=["batch_stats"])

    results = [
        jax.value_and_grad(lambda p, x, a=apply: value(a, p, x), argnums=(0, 1), has_aux=True)(params, x)
        for apply in (our_apply, their_apply)
    ]
    for ours_leaf, theirs_leaf in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours_leaf, theirs_leaf, rtol=1e-4, atol=1e-5)


def test_initialization_leaves_the_statistics_at_their_start(x):
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0.0)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1.0)
