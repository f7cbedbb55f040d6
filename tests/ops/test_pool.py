"""Pooling over all positions, and its gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops.pool import global_max_pool


@pytest.mark.parametrize("shape", [(2, 7, 3), (2, 4, 5, 3), (1, 2, 3, 4, 2)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_maximum_and_its_gradient(shape, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    flat = np.asarray(x, np.float32).reshape(shape[0], -1, shape[-1])
    found, pull = jax.vjp(global_max_pool, x)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, flat.max(axis=1))
    weights = np.arange(1.0, found.size + 1, dtype=np.float32).reshape(found.shape)
    (gradient,) = pull(jnp.asarray(weights))
    expected = np.zeros_like(flat)
    np.put_along_axis(expected, flat.argmax(axis=1)[:, None], weights[:, None], axis=1)
    np.testing.assert_array_equal(np.asarray(gradient, np.float32).reshape(flat.shape), expected)


def test_of_equal_maxima_the_first_has_the_whole_gradient():
    x = jnp.asarray([[1.0, 3.0, 3.0, -1.0]]).reshape(1, 4, 1)
    assert jax.grad(lambda x: global_max_pool(x).sum())(x).ravel().tolist() == [0, 1, 0, 0]


def test_a_nan_and_an_infinity_are_the_maximum():
    x = jnp.asarray([[[1.0, np.inf, -np.inf], [np.nan, 0.0, -np.inf]]])
    np.testing.assert_array_equal(global_max_pool(x), [[np.nan, np.inf, -np.inf]])
