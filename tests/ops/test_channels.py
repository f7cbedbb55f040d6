"""Moments, spread and collect against batch norm in NumPy and float64, and plain JAX, under every transformation.

What holds of the primitives, and so of both forms alike (higher derivatives, batching), is tested once.
"""

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
from tests.ops import exact
from tests.ops.exact import close

IN_COMPILED_FORM = pytest.mark.parametrize("form", ["compiled"], indirect=True)


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


def with_gradients(f):
    """Return the output of ``f`` and all gradients of its energy, as one function."""
    return lambda *operands: (f(*operands), jax.grad(energy(f), (0, 1, 2))(*operands))


def expected(relu, x, gain, bias):
    """Return what ``with_gradients(batch_norm(relu))`` gives, exactly."""
    y = exact.batch_norm(x, gain, bias, relu=relu)
    return exact.batch_norm(x, gain, bias, relu=relu, g=np.cos(y + 0.3))


@pytest.mark.parametrize("shape", [(1, 3, 5, 4, 16), (3, 7, 5), (2, 2, 3, 3, 3, 33), (2, 1)])
def test_value_and_gradients(form, shape):
    x, _, gain, bias = arrays(shape)
    ours = jax.jit(lambda *operands: [with_gradients(batch_norm(relu))(*operands) for relu in (False, True)])
    close(ours(x, gain, bias), [expected(relu, x, gain, bias) for relu in (False, True)], 1e-4)


@pytest.mark.parametrize("relu", [False, True])
def test_higher_derivatives_are_those_of_plain_jax(relu):
    x, t, gain, bias = arrays((2, 7, 5))
    _, _, dgain, dbias = arrays((2, 7, 5), seed=1)
    operands, tangents = (x, gain, bias), (t, dgain, dbias)

    def higher(f):
        gradient = jax.grad(energy(f), (0, 1, 2))

        def along(*operands):
            return sum(jnp.vdot(a, b) for a, b in zip(gradient(*operands), tangents, strict=True))

        tangent = lambda *operands: jax.jvp(f, operands, tangents)[1]  # noqa: E731
        twice = lambda *operands: jax.jvp(gradient, operands, tangents)[1]  # noqa: E731
        return jax.jit(lambda *operands: (tangent(*operands), twice(*operands), jax.grad(along, (0, 1, 2))(*operands)))

    close(higher(batch_norm(relu))(*operands), higher(plain_batch_norm(relu))(*operands), 1e-4)


@IN_COMPILED_FORM
def test_the_compiled_sums_are_used(form):
    x, _, gain, bias = arrays((1, 4, 6, 16))
    text = jax.jit(jax.grad(energy(batch_norm(True)))).lower(x, gain, bias).as_text()
    assert text.count("custom_call @resnet_jax_channel_moments") == 1
    assert text.count("custom_call @resnet_jax_channel_collect") == 1  # the gradient of the moments needs no other
    assert "stablehlo.reduce" in jax.jit(energy(batch_norm(True))).lower(x, gain, bias).as_text()


@IN_COMPILED_FORM
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    parts=st.integers(1, 3),
    rows=st.integers(1, 40),
    channels=st.integers(1, 150),
    offset=st.sampled_from([0, 1e3, -1e4]),
)
def test_sums_of_any_shape_are_those_of_float64(form, parts, rows, channels, offset):
    x, g, gain, bias = (np.asarray(a) for a in arrays((parts, rows, channels), seed=parts + rows + channels))
    x = x + np.float32(offset)
    wide = x.astype(np.float64)
    given_mean = wide.mean(1).astype(np.float32)
    mean, var, *sums = all_sums(x, g, given_mean, bias, gain)
    np.testing.assert_allclose(mean, wide.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, wide.var(1), rtol=1e-5, atol=1e-9)
    distance = (x - given_mean[:, None]).astype(np.float64)
    pre = bias.astype(np.float64)[:, None] + gain.astype(np.float64)[:, None] * distance
    for kept, (total, product) in zip((g.astype(np.float64), np.where(pre <= 0, 0, g)), sums, strict=True):
        np.testing.assert_allclose(total, kept.sum(1), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(product, (kept * distance).sum(1), rtol=1e-4, atol=1e-3)


@jax.jit
def all_sums(x, g, mean, bias, gain):
    return *moments(x), channels.collect_p.bind(g, x, mean), channels.collect_p.bind(g, x, mean, bias, gain)


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
    x, g, gain, bias = (np.array(a) for a in arrays((1, 50, 18)))
    x[0, 7, 3] = np.nan
    g[0, 7, 4] = np.nan

    @jax.jit
    def everything(x, g, gain, bias):
        nothing = jnp.zeros_like(gain)
        y = normalize(x, nothing, gain, bias, relu=True)
        return *moments(x), y[:, 7], channels.collect_p.bind(g, x, nothing, jnp.abs(bias) + 9, gain)[0]

    for row, bad in zip(everything(x, g, gain, bias), ([3], [3], [3], [4]), strict=True):
        assert np.flatnonzero(np.isnan(row[0])).tolist() == bad


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, 1), (2, 1, 0), (None, None, 0)])
def test_vmap_over_inputs_parameters_and_both(axes):
    operands = []
    for a, axis in zip((lambda v: (v[0], v[2], v[3]))(arrays((2, 5, 4, 6))), axes, strict=True):
        operands.append(np.asarray(a) if axis is None else np.stack([a, 2 * a, -a], axis))

    @jax.jit
    def mapped(*operands):
        each = jax.vmap(jax.grad(energy(batch_norm(True)), (0, 1, 2)), axes)
        return each(*operands), jax.grad(energy(jax.vmap(batch_norm(True), axes)), (0, 1, 2))(*operands)

    members = [
        expected(True, *(a if axis is None else np.take(a, i, axis) for a, axis in zip(operands, axes, strict=True)))[1]
        for i in range(3)
    ]
    inner = [np.stack(gradients) for gradients in zip(*members, strict=True)]
    outer = [d.sum(0) if axis is None else np.moveaxis(d, 0, axis) for d, axis in zip(inner, axes, strict=True)]
    close(mapped(*operands), (tuple(inner), tuple(outer)), 1e-4)


def test_vmap_over_no_member():
    x, _, gain, bias = arrays((2, 5, 4, 6))
    assert jax.vmap(batch_norm(True), (0, None, None))(x[None][:0], gain, bias).shape == (0, *x.shape)


def test_a_jacobian_is_a_batch_of_cotangents():
    x, _, gain, bias = arrays((1, 3, 2, 3))
    basis = np.eye(x.size).reshape(x.size, *x.shape)
    rows = [exact.batch_norm(x, gain, bias, relu=True, g=g)[1][:2] for g in basis]
    jacobian = tuple(np.stack(parts).reshape(*x.shape, *parts[0].shape) for parts in zip(*rows, strict=True))
    ours = jax.jit(lambda *operands: [jac(batch_norm(True), (0, 1))(*operands) for jac in (jax.jacrev, jax.jacfwd)])
    close(ours(x, gain, bias), [jacobian, jacobian], 1e-4)


def test_inside_scan_and_remat():
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
        f = jax.jit(batch_norm(False))
        check_grads(f, (x, gain, bias), order=2, modes=("rev",), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("bfloat16", 5e-2), ("float16", 5e-3)])
def test_other_floats_are_those_of_plain_jax(dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        x, _, gain, bias = arrays((1, 6, 5, 4), dtype=dtype)
        ours, reference = (jax.jit(jax.grad(energy(f(True))))(x, gain, bias) for f in (batch_norm, plain_batch_norm))
        close(ours, reference, rtol)


@pytest.mark.parametrize("shape", [(1, 0, 4, 3), (0, 5, 3), (1, 5, 0)])
def test_empty_arrays(shape):
    x, _, gain, bias = arrays(shape)
    gradients = jax.jit(jax.grad(energy(batch_norm(True)), (0, 2)))(x, gain, bias)
    close(gradients, (x, jnp.zeros_like(bias)))


def test_eager_numpy_and_no_jit():
    x, _, gain, bias = arrays((1, 6, 5, 4))
    expected = exact.batch_norm(x, gain, bias, relu=True)
    close(batch_norm(True)(np.asarray(x), gain, np.asarray(bias)), expected, 1e-5)
    with jax.disable_jit():
        close(batch_norm(True)(x, gain, bias), expected, 1e-5)


def two_devices():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def test_a_split_batch_reduces_only_numbers_of_channels():
    """Over two devices: nothing compiled, the same numbers, and no communication but sums per channel."""
    mesh = two_devices()
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
    assert not any("f32[1,16" in shape or "f32[1,8,5" in shape for shape in reduced)
    operands = jax.device_put(x, split), *jax.device_put((gain, bias), whole)
    close(compiled(*operands), expected(True, x, gain, bias)[1], 1e-4)


def test_shard_map_with_averaged_statistics(form):
    """Each device has its moments compiled; those of the union give the gradient of the whole batch."""
    mesh = two_devices()
    x, _, gain, bias = arrays((1, 8, 5, 6))

    def union(x):
        mean, var = moments(x)
        whole = lax.pmean(mean, "data")
        return whole, lax.pmean(var + jnp.square(mean - whole), "data")

    split = P(None, "data")
    mapped = jax.shard_map(batch_norm(True, union), mesh=mesh, in_specs=(split, P(), P()), out_specs=split)
    gradient = jax.jit(jax.grad(energy(mapped), (0, 1, 2)))
    assert ("resnet_jax_channel_collect" in gradient.lower(x, gain, bias).as_text()) == (form == "compiled")
    close(gradient(x, gain, bias), expected(True, x, gain, bias)[1], 1e-4)


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
    close(exported.call(x), expected(True, x, gain, bias)[1][0], 1e-4)


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


@pytest.mark.skipif(not native.available(), reason="no C++ compiler")
@pytest.mark.slow
def test_the_number_of_threads_changes_no_bit():
    """XLA has as many threads as the process has processors when it starts."""

    def run(cpus):
        environment = {**os.environ, "NPROC": str(cpus)}  # tsl's own name for the number of threads of its pool
        command = [sys.executable, "-c", PROGRAM]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert run(1) == run(2) == run(7)
