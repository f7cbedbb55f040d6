"""Moments, spread and collect against their definitions in float64 and plain JAX, under every transformation."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import export, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jax.test_util import check_grads
from jax.typing import DTypeLike

from resnet_jax.ops import channels, moments, native, normalize
from tests.ops.exact import close

COMPILED = pytest.mark.skipif(not native.available(), reason="no C++ compiler")


def arrays(shape, *, seed=0, dtype: DTypeLike = np.float32):
    """Return an x of the shape, a like cotangent, and a gain and a bias per channel."""
    rng = np.random.default_rng(seed)
    rows = (shape[0], shape[-1])
    return [jnp.asarray(rng.normal(size=size), dtype) for size in (shape, shape, rows, rows)]


def batch_norm(relu, moments=moments, normalize=normalize):
    def f(x, gain, bias):
        mean, var = moments(x)
        return normalize(x, mean, gain * lax.rsqrt(var + 1e-3), bias, relu=relu)

    return f


def plain_batch_norm(relu):
    """The same in plain JAX, differentiated by JAX."""

    def over(row, x):
        return row.reshape(row.shape[0], *(1,) * (x.ndim - 2), row.shape[1])

    def moments(x):
        axes = tuple(range(1, x.ndim - 1))
        mean = jnp.mean(x, axes)
        return mean, jnp.mean(jnp.square(x - over(mean, x)), axes)

    def normalize(x, mean, gain, bias, *, relu):
        y = (x - over(mean, x)) * over(gain, x) + over(bias, x)
        return jax.nn.relu(y) if relu else y

    return batch_norm(relu, moments, normalize)


def energy(f):
    return lambda *operands: jnp.sum(jnp.sin(f(*operands) + 0.3))


def derivatives(f):
    """Return value, gradient, tangent and two Hessian-vector products, as one function of operands and tangents."""

    def everything(operands, tangents):
        gradient = jax.grad(energy(f), (0, 1, 2))

        def along(*operands):
            return sum(jnp.vdot(a, b) for a, b in zip(gradient(*operands), tangents, strict=True))

        return (
            f(*operands),
            gradient(*operands),
            jax.jvp(f, operands, tangents)[1],
            jax.jvp(gradient, operands, tangents)[1],
            jax.grad(along, (0, 1, 2))(*operands),
        )

    return everything


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 5, 4, 16), (3, 7, 5), (2, 2, 3, 3, 3, 33), (2, 1)])
def test_value_and_derivatives_of_both_orders(form, shape, relu):
    x, t, gain, bias = arrays(shape)
    _, _, dgain, dbias = arrays(shape, seed=1)
    ours, reference = (
        jax.jit(derivatives(f(relu)))((x, gain, bias), (t, dgain, dbias)) for f in (batch_norm, plain_batch_norm)
    )
    close(ours, reference, 1e-4)


@COMPILED
def test_the_compiled_sums_are_used():
    x, _, gain, bias = arrays((1, 4, 6, 16))
    text = jax.jit(jax.grad(energy(batch_norm(True)))).lower(x, gain, bias).as_text()
    assert text.count("custom_call @resnet_jax_channel_moments") == 1
    assert text.count("custom_call @resnet_jax_channel_collect") == 1  # the gradient of the moments needs no other
    assert "stablehlo.reduce" in jax.jit(energy(batch_norm(True))).lower(x, gain, bias).as_text()


@COMPILED
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    parts=st.integers(1, 3),
    rows=st.integers(1, 40),
    channels=st.integers(1, 150),
    offset=st.sampled_from([0, 1e3, -1e4]),
)
def test_sums_of_any_shape_are_those_of_float64(parts, rows, channels, offset):
    x, g, gain, bias = arrays((parts, rows, channels), seed=parts + rows + channels)
    x = x + jnp.float32(offset)
    exact = np.asarray(x, np.float64)
    mean, var = moments(x)
    np.testing.assert_allclose(mean, exact.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, exact.var(1), rtol=1e-5, atol=1e-9)
    distance = np.asarray(x - mean[:, None], np.float64)
    for mask in ((), (bias, gain)):
        kept = np.asarray(g, np.float64)
        if mask:
            pre = np.asarray(bias, np.float64)[:, None] + np.asarray(gain, np.float64)[:, None] * distance
            kept = np.where((pre <= 0), 0, kept)
        total, product = channels_collect(g, x, mean, *mask)
        np.testing.assert_allclose(total, kept.sum(1), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(product, (kept * distance).sum(1), rtol=1e-4, atol=1e-3)


def channels_collect(*operands):
    return jax.jit(channels.collect_p.bind)(*operands)


@pytest.mark.parametrize("rows", [37, 5000])
@pytest.mark.parametrize("outlier", [False, True])
def test_variance_does_not_cancel(form, rows, outlier):
    """A mean of 10,000 deviations, and first rows that are far from it: neither shifts nor E[x^2] would do."""
    rng = np.random.default_rng(0)
    x = np.asarray(1000 + 0.1 * rng.normal(size=(1, rows, 20)), np.float32)
    if outlier:
        x[:, 0] = 0.0
    mean, var = moments(jnp.asarray(x))
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(1), rtol=2e-7)
    np.testing.assert_allclose(var, x.astype(np.float64).var(1), rtol=1e-5 if form == "compiled" else 2e-2)


def test_what_is_not_a_number_is_seen(form):
    x, g, gain, bias = arrays((1, 50, 18))
    x = x.at[0, 7, 3].set(jnp.nan)
    mean, var = moments(x)
    y = normalize(x, jnp.zeros_like(gain), gain, bias, relu=True)
    total, _ = channels_collect(g.at[0, 7, 4].set(jnp.nan), x, jnp.zeros_like(gain), jnp.abs(bias) + 9, gain)
    for row, bad in ((mean, [3]), (var, [3]), (y[:, 7], [3]), (total, [4])):
        assert np.flatnonzero(np.isnan(row[0])).tolist() == bad


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, 1), (2, 1, 0), (None, None, 0)])
def test_vmap_over_inputs_parameters_and_both(form, axes):
    operands = []
    for a, axis in zip((lambda v: (v[0], v[2], v[3]))(arrays((2, 5, 4, 6))), axes, strict=True):
        operands.append(a if axis is None else jnp.stack([a, 2 * a, -a], axis))

    def mapped(f):
        each = jax.vmap(jax.grad(energy(f), (0, 1, 2)), axes)
        return jax.jit(lambda *operands: (each(*operands), jax.grad(energy(jax.vmap(f, axes)), (0, 1, 2))(*operands)))

    close(mapped(batch_norm(True))(*operands), mapped(plain_batch_norm(True))(*operands), 1e-4)
    empty = [
        a if axis is None else jnp.take(a, jnp.zeros(0, int), axis) for a, axis in zip(operands, axes, strict=True)
    ]
    assert jax.vmap(batch_norm(True), axes)(*empty).size == 0


def test_a_jacobian_is_a_batch_of_cotangents(form):
    x, _, gain, bias = arrays((1, 3, 2, 3))
    ours, reference = (jax.jit(jax.jacrev(f(True), (0, 1)))(x, gain, bias) for f in (batch_norm, plain_batch_norm))
    close(ours, reference, 1e-4)
    close(jax.jacfwd(batch_norm(True), (0, 1))(x, gain, bias), reference, 1e-4)


def test_inside_scan_and_remat(form):
    x, _, gain, bias = arrays((1, 6, 5, 4))

    def repeated(f):
        @jax.checkpoint
        def body(x, gain):
            return x + f(x, gain, bias), None

        return jax.jit(jax.grad(lambda x, gains: jnp.sum(lax.scan(body, x, gains)[0] ** 2), (0, 1)))

    gains = jnp.stack([gain, -gain, gain + 1])
    close(repeated(batch_norm(True))(x, gains), repeated(plain_batch_norm(True))(x, gains), 1e-4)


def test_finite_differences():
    with jax.enable_x64(True):
        x, _, gain, bias = arrays((2, 5, 3), dtype=np.float64)
        check_grads(batch_norm(False), (x, gain, bias), order=2, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("bfloat16", 5e-2), ("float16", 5e-3)])
def test_other_floats_are_those_of_plain_jax(dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        x, _, gain, bias = arrays((1, 6, 5, 4), dtype=dtype)
        ours, reference = (jax.jit(jax.grad(energy(f(True))))(x, gain, bias) for f in (batch_norm, plain_batch_norm))
        close(ours, reference, rtol)


@pytest.mark.parametrize("shape", [(1, 0, 4, 3), (0, 5, 3), (1, 5, 0)])
def test_empty_arrays(shape):
    x, _, gain, bias = arrays(shape)
    ours, reference = (jax.jit(jax.grad(energy(f(True))))(x, gain, bias) for f in (batch_norm, plain_batch_norm))
    close(ours, reference)


def test_eager_numpy_and_no_jit():
    x, _, gain, bias = arrays((1, 6, 5, 4))
    expected = plain_batch_norm(True)(x, gain, bias)
    close(batch_norm(True)(np.asarray(x), gain, np.asarray(bias)), expected, 1e-5)
    with jax.disable_jit():
        close(batch_norm(True)(x, gain, bias), expected, 1e-5)


def test_a_split_batch_reduces_only_numbers_of_channels():
    """Over eight devices: nothing compiled, the same numbers, and no communication but sums per channel."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x, _, gain, bias = arrays((1, 16, 5, 4, 6))
    split, whole = NamedSharding(mesh, P(None, "data")), NamedSharding(mesh, P())
    gradient = jax.jit(jax.grad(energy(batch_norm(True)), (0, 1, 2)), in_shardings=(split, whole, whole))
    compiled = gradient.lower(x, gain, bias).compile()
    text = compiled.as_text() or ""
    assert "resnet_jax_channel" not in text
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
    reduced = [line.split("=", 1)[1].split("all-reduce(")[0] for line in text.splitlines() if " all-reduce(" in line]
    assert reduced
    assert all("f32[1,6]" in shape or "f32[6]" in shape for shape in reduced), reduced
    assert not any("f32[1,16" in shape or "f32[1,2,5" in shape for shape in reduced)
    operands = jax.device_put(x, split), *jax.device_put((gain, bias), whole)
    close(compiled(*operands), jax.grad(energy(plain_batch_norm(True)), (0, 1, 2))(x, gain, bias), 1e-4)


@pytest.mark.parametrize("relu", [False, True])
def test_shard_map_with_averaged_statistics(form, relu):
    """Each device has its moments compiled; those of the union give the gradient of the whole batch."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    x, _, gain, bias = arrays((1, 8, 5, 6))

    def union(x):
        mean, var = moments(x)
        whole = lax.pmean(mean, "data")
        return whole, lax.pmean(var + jnp.square(mean - whole), "data")

    mapped = jax.shard_map(
        batch_norm(relu, union), mesh=mesh, in_specs=(P(None, "data"), P(), P()), out_specs=P(None, "data")
    )
    gradient = jax.jit(jax.grad(energy(mapped), (0, 1, 2)))
    assert ("resnet_jax_channel_collect" in gradient.lower(x, gain, bias).as_text()) == (form == "compiled")
    expected = jax.grad(energy(plain_batch_norm(relu)), (0, 1, 2))(x, gain, bias)
    close(gradient(x, gain, bias), expected, 1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_plain_sums(platform):
    x, _, gain, bias = arrays((1, 6, 5, 4))
    gradient = jax.jit(jax.grad(energy(batch_norm(True))))
    text = gradient.trace(x, gain, bias).lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call" not in text
    assert "stablehlo.reduce" in text


def test_exported_with_an_unknown_batch_for_every_platform():
    x, _, gain, bias = arrays((1, 6, 5, 4))
    (batch,) = export.symbolic_shape("batch")
    abstract = jax.ShapeDtypeStruct((1, batch, 5, 4), x.dtype)
    gradient = jax.jit(jax.grad(lambda x: energy(batch_norm(True))(x, gain, bias)))
    exported = export.export(gradient, platforms=("cpu", "cuda", "tpu"))(abstract)
    close(exported.call(x), jax.grad(energy(plain_batch_norm(True)))(x, gain, bias), 1e-4)


PROGRAM = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np
from resnet_jax.ops import moments, native
from resnet_jax.ops.channels import collect_p
assert native.available()
digest = hashlib.sha256()
for shape in ((1, 9000, 16), (3, 700, 70), (20, 40, 5), (1, 300, 1000)):
    x, g = (jnp.asarray(np.random.default_rng(i).normal(size=shape), jnp.float32) for i in range(2))
    rows = x[:, 0]
    for out in (*jax.jit(moments)(x), *collect_p.bind(g, x, rows), *collect_p.bind(g, x, rows, rows, g[:, 0])):
        digest.update(np.asarray(out).tobytes())
print(digest.hexdigest())
"""


@COMPILED
@pytest.mark.slow
def test_the_number_of_threads_changes_no_bit():
    """XLA has as many threads as the process has processors when it starts."""

    def run(cpus):
        environment = {**os.environ, "NPROC": str(cpus)}  # tsl's own name for the number of threads of its pool
        command = [sys.executable, "-c", PROGRAM]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert run(1) == run(2) == run(7)
