"""The forms for a TPU, run as plain JAX on the CPU: against float64, the forms that define them, and who gets them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.norm import BatchNorm
from resnet_jax.ops import channels_tpu, conv, conv_spec, conv_tpu, moments
from resnet_jax.ops.conv_spec import ConvSpec

EPS = float(np.finfo(np.float32).eps)


def values(far, shape=(1, 64, 12, 12, 24), seed=0):
    """Return normal values whose mean is ``far`` deviations from 0, before and after rounding to bfloat16."""
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=shape) * 0.5 + 0.5 * far
    return exact, np.asarray(jnp.asarray(exact, jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("far", [0.0, 1.0, -8.0, 100.0, -1e3])
def test_near_the_mean_they_are_those_of_float64_however_far_it_is(far):
    """A running mean that has come within two deviations of the mean."""
    x = values(far)[1]
    wide = x.astype(np.float64)
    mean, var = jax.jit(channels_tpu.moments)(
        x, jnp.asarray(wide.mean((1, 2, 3)) + wide.std((1, 2, 3)) * 2, jnp.float32)
    )
    np.testing.assert_allclose(mean, wide.mean((1, 2, 3)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, wide.var((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("far", [0.0, 3.0, -30.0, 100.0, 300.0])
def test_at_the_start_they_lose_less_than_bfloat16_has_lost(far):
    """With a running mean of 0: at most what rounding to 8 bits adds to the variance, 2^-18 / 3 D^2 of it."""
    x = values(far)[1]
    wide = x.astype(np.float64)
    mean, var = jax.jit(channels_tpu.moments)(x, jnp.zeros((1, x.shape[-1])))
    np.testing.assert_allclose(mean, wide.mean((1, 2, 3)), rtol=1e-6, atol=1e-6)
    exact = wide.var((1, 2, 3))
    distance = np.square(wide.mean((1, 2, 3))) / exact
    assert (np.abs(var - exact) / exact <= 2**-18 / 3 * distance + 16 * EPS).all()


def test_a_constant_and_what_is_no_number():
    x = np.full((1, 300, 3), 7.25, np.float32)
    x[0, 5, 1] = np.nan
    x[0, 5, 2] = np.inf
    mean, var = channels_tpu.moments(jnp.asarray(x), jnp.zeros((1, 3)))
    assert float(mean[0, 0]) == 7.25
    assert 0 <= float(var[0, 0]) <= 16 * EPS * 7.25**2
    assert not np.isfinite(mean[0, 1:]).any()
    assert not np.isfinite(var[0, 1:]).any()


def test_derivatives_do_not_depend_on_what_is_near():
    x, near = jnp.asarray(values(2.0, (2, 30, 4))[1]), jnp.ones((2, 4))

    def f(x, near):
        mean, var = moments(x, near)
        return jnp.sum(jnp.sin(mean) + var**2)

    ours = jax.grad(f, (0, 1))(x, near)
    np.testing.assert_array_equal(ours[0], jax.grad(lambda x: f(x, None))(x))
    np.testing.assert_array_equal(ours[1], np.zeros((2, 4)))
    mapped = jax.vmap(moments, (0, None))(jnp.stack([x, x + 1]), near)
    np.testing.assert_allclose(mapped[0][1], moments(x + 1)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "platform", "one"), [("bfloat16", "tpu", True), ("float32", "tpu", False), ("bfloat16", "cpu", False)]
)
def test_who_gets_them(dtype, platform, one):
    """Batch norm of bfloat16 on a TPU: of wider values at the start, when nothing is near, one pass could cancel."""
    x = jnp.zeros((4, 6, 6, 8), dtype)
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    step = jax.jit(lambda x: BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"]))
    text = step.trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.maximum" in text) == one


@pytest.mark.parametrize("check_vma", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_mapped_over_devices(check_vma):
    """The running mean is the same on all devices, the examples are not."""
    x = jax.random.normal(jax.random.key(1), (16, 3, 3, 2)).astype(jnp.bfloat16)
    norm = BatchNorm(axis_name="data")
    variables = norm.init(jax.random.key(0), x, train=False)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(x):
        y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return y.astype(jnp.float32) ** 3, updates["batch_stats"]["var"]

    mapped = jax.shard_map(
        loss, mesh=mesh, in_specs=jax.P("data"), out_specs=(jax.P("data"), jax.P()), check_vma=check_vma
    )
    y, var = jax.jit(mapped)(x)
    np.testing.assert_allclose(var, 0.9 + 0.1 * np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-5)
    assert np.isfinite(jax.jit(jax.grad(lambda x: mapped(x)[0].sum()))(x).astype(np.float32)).all()
    text = jax.jit(mapped).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.maximum" in text  # every device takes its own, which no compiler splits
    assert y.shape == x.shape


@pytest.mark.parametrize(
    ("groups", "channels", "outputs", "stride", "most"),
    [
        (4, 6, 3, 1, 12),
        (8, 4, 8, 2, 128),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((16, 8, 8, 1, 8), (2, 96, 64, 1, 128), (6, 1, 2, 1, 2))
        ),
    ],
)
def test_groups_side_by_side_give_the_same_bits(monkeypatch, groups, channels, outputs, stride, most):
    """Of whole numbers, whose sums do not round: products with zeros add nothing."""
    monkeypatch.setattr(conv_tpu, "CHANNELS", most)
    spec = ConvSpec((8, 7), (3, 3), (stride, stride), (1, 1), (1, 1), groups)
    rng = np.random.default_rng(0)

    def whole(*shape):
        return jnp.asarray(rng.integers(-3, 4, shape), jnp.float32)

    x, w = whole(2, 8, 7, groups * channels), whole(3, 3, channels, groups * outputs)
    g = whole(*conv_spec.forward(x, w, spec).shape)
    for name, given in (("forward", (x, w)), ("input_gradient", (g, w)), ("weight_gradient", (x, g))):
        np.testing.assert_array_equal(getattr(conv_tpu, name)(*given, spec), getattr(conv_spec, name)(*given, spec))


@pytest.mark.parametrize(("platform", "groups", "left"), [("tpu", 8, 1), ("tpu", 32, 32), ("cuda", 8, 8)])
def test_who_gets_groups_side_by_side(platform, groups, left):
    """A TPU; but where each channel is by itself there is nothing to join for."""
    x, w = jnp.zeros((2, 8, 8, 32), jnp.bfloat16), jnp.zeros((3, 3, 32 // groups, 32), jnp.bfloat16)

    def f(x, w):
        return conv(x, w, strides=(1, 1), padding=(1, 1), groups=groups).astype(jnp.float32).sum()

    text = jax.jit(jax.grad(f, (0, 1))).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    counts = {line.split("feature_group_count = ")[1].split()[0] for line in text.splitlines() if "feature_gr" in line}
    assert str(left) in counts
    assert (f"{groups}" in counts) == (left == groups)
