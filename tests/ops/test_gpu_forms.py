"""The forms for a GPU, run as plain JAX on the CPU: against float64, and against the forms that define them."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops import channels, channels_gpu, normalize

max_pool = importlib.import_module("resnet_jax.ops.max_pool")


@pytest.mark.parametrize("shape", [(1, 8, 12, 12, 40), (3, 130, 5), (1, 1, 1, 1, 3), (2, 97, 7)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments_are_those_of_float64(shape, offset):
    x = (np.random.default_rng(0).normal(size=shape) + offset).astype(np.float32)
    mean, var = jax.jit(channels_gpu.moments)(x)
    wide, axes = x.astype(np.float64), tuple(range(1, x.ndim - 1))
    np.testing.assert_allclose(mean, wide.mean(axes), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, wide.var(axes), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("far", [10.0, 1e3, 1e6])
def test_a_shift_far_from_all_others_costs_digits_but_does_not_cancel(far):
    """Relative to the variance, in which that value has its part: eps times D^2 or n, and what the sums round."""
    x = np.random.default_rng(0).normal(size=(1, 4096, 6)).astype(np.float32)
    x[:, 2048] += far
    var = channels_gpu.moments(jnp.asarray(x))[1]
    eps = float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(var, x.astype(np.float64).var(1), rtol=10 * min(4096, 1 + far**2) * eps + 1e-5)


def test_statistics_of_a_constant_and_of_what_is_no_number():
    x = np.full((1, 300, 3), 7.25, np.float32)
    x[0, 5, 1] = np.nan
    x[0, 5, 2] = np.inf
    mean, var = channels_gpu.moments(jnp.asarray(x))
    assert (float(mean[0, 0]), float(var[0, 0])) == (7.25, 0.0)
    assert not np.isfinite(mean[0, 1:]).any()
    assert not np.isfinite(var[0, 1:]).any()


@pytest.mark.parametrize(("parts", "rows", "width"), [(1, 131072, 16), (1, 12544, 2048), (1, 3211264, 64), (64, 49, 8)])
def test_a_piece_fits_what_xla_sums_in_one_kernel(parts, rows, width):
    for blocks in (channels_gpu.BLOCKS, channels_gpu.MASKED_BLOCKS):
        size = channels_gpu.positions_of_a_piece(parts, rows, width, blocks)
        assert rows % size == 0
        assert size <= channels_gpu.LONGEST >= rows // size
        assert parts * rows // size * -(-width // 32) >= blocks or size <= channels_gpu.SHORTEST


def operands(shape=(2, 6, 5, 4), seed=0):
    rng = np.random.default_rng(seed)
    rows = (shape[0], shape[-1])
    g, x, *numbers = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, shape, rows, rows, rows))
    return g, x, *numbers


def test_masks_and_sums_are_those_of_the_plain_forms():
    g, x, mean, bias, gain = operands()
    x = x.at[0, 0, 0, 0].set(mean[0, 0])
    bias = bias.at[0, 0].set(0.0)  # exactly 0: nothing passes
    x = x.at[0, 1, 1, 1].set(jnp.nan)
    for on_gpu, plain, given in (
        (channels._activate_on_gpu, channels._plain_activate, (bias, gain, x, mean)),
        (channels._gate_on_gpu, channels._plain_gate, (g, gain, x, mean, bias, gain)),
    ):
        np.testing.assert_array_equal(on_gpu(*given)[0], plain(*given)[0])
    for mask in ((), (bias, gain)):
        sums = channels._collect_on_gpu(g, x, mean, *mask), channels._plain_collect(g, x, mean, *mask)
        for ours, expected in zip(*sums, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_who_gets_them(platform):
    """A GPU, the batch of which no compiler splits."""
    _, x, mean, bias, gain = operands()

    def f(x):
        return normalize(x, *jax.lax.stop_gradient((mean, gain, bias)), relu=True).sum() + sum(
            a.sum() for a in channels.moments(x)
        )

    text = jax.jit(jax.grad(f)).trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert ("concatenate" in text) == (platform == "cuda")


@pytest.mark.parametrize(
    ("height", "width", "window", "stride", "padding"),
    [
        (7, 9, 3, 2, 1),
        (5, 11, 2, 3, 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((8, 8, 3, 2, 1), (6, 7, 2, 2, 0), (9, 7, 3, 1, 1))),
    ],
)
def test_gradient_of_max_pool(height, width, window, stride, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-3, 3, (2, height, width, 3)), jnp.float32)  # with many equal ones
    size = {"window": window, "stride": stride, "padding": padding}
    g = jnp.asarray(rng.integers(-9, 9, max_pool.plain_max_pool(x, **size)[0].shape), jnp.float32)
    np.testing.assert_array_equal(max_pool._scatter_on_gpu(g, x, **size)[0], max_pool._plain_scatter(g, x, **size)[0])


def test_gradient_of_max_pool_in_bfloat16_and_of_other_dimensions():
    size = {"window": 3, "stride": 2, "padding": 1}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 7, 2)), jnp.bfloat16)
    (dx,) = max_pool._scatter_on_gpu(jnp.ones((1, 4, 4, 2), jnp.bfloat16), x, **size)
    assert (dx.dtype, float(dx.astype(jnp.float32).sum())) == (jnp.bfloat16, 32.0)
    series = x[:, 0].astype(jnp.float32)
    g = jnp.ones((1, 4, 2))
    np.testing.assert_array_equal(
        max_pool._scatter_on_gpu(g, series, **size), max_pool._plain_scatter(g, series, **size)
    )
