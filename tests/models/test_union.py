"""Statistics over devices: one wait each way, and no cancellation however far the mean is from zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import union as union_module
from resnet_jax.models.union import union, union_over
from resnet_jax.training.placement import make_mesh

CUT, WHOLE = jax.P("data"), jax.P()


def over_devices(function, *, devices=8):
    mesh = make_mesh(jax.devices()[:devices])
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=CUT, out_specs=WHOLE, check_vma=False))


def statistics(x):
    mean = jnp.mean(x, axis=0, keepdims=True)
    return union_over(mean, jnp.mean(jnp.square(x - mean), axis=0, keepdims=True), "data")


@pytest.mark.parametrize("far", [0.0, 1e3, 3e4, -1e6])
def test_the_variance_is_that_of_float64_however_far_the_mean_is(far):
    """Rounding of the inputs themselves is left out: they are what float32 says. The running mean plays no part."""
    x = (np.random.default_rng(0).normal(size=(64, 5)) + far).astype(np.float32)
    x[::8] += 2  # devices whose means differ
    mean, var = over_devices(statistics)(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(np.asarray(mean)[0], wide.mean(axis=0), rtol=4e-7, atol=1e-6)
    # The means cross as float32: their rounding, times how far devices are apart, is all that is added; it is that of
    # the inputs. A sum of squares would be wrong by its square, far^2 / 10^7: 0.1 for a mean of 1000, not 0.00006.
    rounded = float(np.spacing(np.float32(abs(far))))
    np.testing.assert_allclose(np.asarray(var)[0], wide.var(axis=0), rtol=2e-6, atol=rounded)


@pytest.mark.parametrize("gathered", [8, 7])
def test_one_device_that_differs_from_all_others(monkeypatch, gathered):
    """Distances are taken from the first device's mean: whichever is far from the rest, and beyond GATHERED devices."""
    monkeypatch.setattr(union_module, "GATHERED", gathered)
    for odd in (0, 5):
        x = np.random.default_rng(2).normal(size=(8, 4, 5)).astype(np.float32)
        x[odd] += 1000
        mean, var = over_devices(statistics)(x.reshape(32, 5))
        wide = x.reshape(32, 5).astype(np.float64)
        np.testing.assert_allclose(np.asarray(mean)[0], wide.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(np.asarray(var)[0], wide.var(axis=0), rtol=2e-6)


@pytest.mark.parametrize("gathered", [8, 7])
def test_it_is_the_plain_union_in_values_and_derivatives(monkeypatch, gathered):
    """The mean of the devices' gradients of what they all have, as the step takes it."""
    monkeypatch.setattr(union_module, "GATHERED", gathered)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(16, 3)), jnp.float32) + 2
    weights = jnp.arange(6.0).reshape(2, 1, 3)

    def plain(x):
        parts = x.reshape(8, 2, 3)
        mean = parts.mean(axis=1)
        var = jnp.square(parts - mean[:, None]).mean(axis=1)
        return (weights * jnp.stack(union(mean, var, lambda a: jnp.mean(a, axis=0, keepdims=True)))).sum()

    def gradient(x):
        return jax.grad(lambda x: (weights * jnp.stack(statistics(x))).sum())(x) / jax.lax.axis_size("data")

    mesh = make_mesh(jax.devices()[:8])
    mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=CUT, out_specs=CUT, check_vma=False))
    np.testing.assert_allclose(mapped(x), jax.grad(plain)(x), rtol=1e-5, atol=1e-6)


def test_a_norm_waits_once_forward_and_once_backward():
    def loss(x):
        return jnp.sum(jnp.sin(jnp.stack(statistics(x))))

    text = over_devices(jax.grad(loss)).lower(jax.ShapeDtypeStruct((16, 3), jnp.float32)).as_text()
    assert text.count("stablehlo.all_gather") == 1
    assert text.count("stablehlo.all_reduce") == 1
