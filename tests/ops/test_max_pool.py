"""Maximum over windows against NumPy and, for higher derivatives, JAX's own ``reduce_window``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings, strategies as st
from jax import export, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jax.typing import DTypeLike

from resnet_jax import ops
from tests.ops import exact
from tests.ops.exact import close
from tests.ops.programs import executed

SIZES = [(3, 2, 1), (2, 2, 0), (3, 1, 2), (4, 3, 0), (1, 2, 0)]


def both(window, stride, padding):
    def reference(x):
        dims = x.ndim - 2
        return nn.max_pool(x, (window,) * dims, (stride,) * dims, ((padding, padding),) * dims)

    return lambda x: ops.max_pool(x, window=window, stride=stride, padding=padding), reference


def image(*shape, seed=0, dtype: DTypeLike = np.float32):
    """Return numbers of which many are equal."""
    return jnp.asarray(np.random.default_rng(seed).integers(-3, 4, shape), dtype)


IMAGES, OTHERS = [(2, 7, 6, 5), (1, 5, 9, 33)], [(2, 7, 6, 5), (2, 9, 3), (1, 5, 4, 6, 2)]


@pytest.mark.parametrize(
    ("form", "shapes", "size"),
    [*(("compiled", IMAGES, size) for size in SIZES), *(("plain", OTHERS, size) for size in SIZES[:2])],
    indirect=["form"],
)
def test_value_tangent_and_gradient(form, shapes, size):
    """With many equal numbers: the gradient goes to the first of them."""
    ours, _ = both(*size)
    operands, results = [], []
    for shape in shapes:
        x = image(*shape)
        y, place = exact.max_pool(x, *size)
        rng = np.random.default_rng(1)
        t, g = (rng.normal(size=a.shape).astype(np.float32) for a in (x, y))
        operands.append((x, t, g))
        results.append((y, t.ravel()[place], exact.max_pool_scatter(g, place, x)))

    @jax.jit
    def everything(operands):
        found = []
        for x, t, g in operands:
            y, vjp = jax.vjp(ours, x)
            found.append((y, jax.jvp(ours, (x,), (t,))[1], *vjp(g)))
        return found

    close(everything(operands), results)


@pytest.mark.parametrize("shape", [(2, 7, 6, 5), (2, 9, 3)])
def test_higher_derivatives_are_those_of_jax(shape):
    x, dx = image(*shape), jax.random.normal(jax.random.key(0), shape)

    def higher(f):
        def energy(x):
            y = f(x)
            return jnp.sum(jnp.sin(1.3 * y * jnp.arange(1.0, y.size + 1, dtype=x.dtype).reshape(y.shape)))

        gradient = jax.grad(energy)
        again = jax.grad(lambda x, dx: jnp.vdot(gradient(x), dx))
        return jax.jit(lambda x, dx: (jax.jvp(gradient, (x,), (dx,))[1], again(x, dx)))

    ours, reference = both(3, 2, 1)
    close(higher(ours)(x, dx), higher(reference)(x, dx))
    found = executed(higher(ours), x, dx)
    assert found["max_pool_gather"] + found["max_pool_scatter"] > 2
    assert not any(name.startswith(("reduce_window", "select_and")) for name in found)


@pytest.mark.parametrize("form", ["compiled"], indirect=True)  # the plain one is JAX's own
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    window=st.integers(1, 4), stride=st.integers(1, 4), padding=st.integers(0, 3), n=st.integers(1, 2),
    extra=st.tuples(st.integers(0, 5), st.integers(0, 5)), channels=st.integers(1, 40),
)  # fmt: skip
def test_any_size(form, window, stride, padding, n, extra, channels):
    ours, _ = both(window, stride, padding)
    x = image(n, *(max(1, window - 2 * padding) + more for more in extra), channels)
    y, place = exact.max_pool(x, window, stride, padding)
    got, gradient = jax.jit(lambda x: (ours(x), jax.grad(lambda x: jnp.sum(ours(x) ** 2))(x)))(x)
    if padding < window:
        close((got, gradient), (y, exact.max_pool_scatter(2 * y, place, x)))
    else:  # a window of nothing but padding has no maximum
        np.testing.assert_array_equal(got, y)


@pytest.mark.parametrize("form", ["compiled"], indirect=True)
def test_the_compiled_forms_are_used(form):
    ours, _ = both(3, 2, 1)
    text = jax.jit(jax.grad(lambda x: jnp.sum(ours(x) ** 2))).lower(image(1, 8, 8, 3)).as_text()
    assert (
        text.count("custom_call @resnet_jax_max_pool(") == text.count("custom_call @resnet_jax_max_pool_scatter(") == 1
    )
    assert "custom_call" not in jax.jit(ours).lower(image(1, 8, 8, 3, dtype=jnp.bfloat16)).as_text()


def test_the_padding_never_wins_and_what_is_not_a_number_does(form):
    ours, _ = both(3, 2, 1)
    x = jnp.full((1, 4, 4, 3), -jnp.inf).at[0, 3, 3, 1].set(jnp.nan)
    y = jax.jit(ours)(x)
    assert np.isneginf(np.delete(np.asarray(y).ravel(), 10)).all()
    assert np.isnan(np.asarray(y)[0, 1, 1, 1])
    assert float(ours(jnp.full((1, 2, 2, 1), -5.0)).max()) == -5.0


def test_vmap_scan_and_remat():
    ours, reference = both(3, 1, 1)
    x = image(3, 2, 5, 4, 6)

    def repeated(f, axis):
        body = jax.checkpoint(lambda x, _: (f(x) * 0.5 + x, None))
        total = lambda x: jnp.sum(lax.scan(body, x, None, length=3)[0] ** 2)  # noqa: E731
        return jax.jit(jax.vmap(jax.grad(total), axis))

    expected = repeated(reference, 0)(x)
    for axis in (0, 3):
        close(repeated(ours, axis)(jnp.moveaxis(x, 0, axis)), expected)


def two_devices():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def test_a_split_batch_needs_no_communication():
    mesh = two_devices()
    ours, reference = both(3, 2, 1)
    split = NamedSharding(mesh, P("data"))
    x = image(16, 6, 5, 3)
    gradients = [jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2)), in_shardings=split) for f in (ours, reference)]
    text = gradients[0].lower(x).compile().as_text() or ""
    assert "resnet_jax_max_pool" not in text
    assert not any(word in text for word in ("all-", "collective-permute"))
    close(*(gradient(x) for gradient in gradients))


def test_shard_map(form):
    mesh = two_devices()
    ours, _ = both(3, 2, 1)
    gradient = jax.grad(lambda x: jnp.sum(ours(x) ** 2))
    mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=P("data"), out_specs=P("data")))
    x = image(8, 5, 5, 3)
    y, place = exact.max_pool(x, 3, 2, 1)
    assert ("resnet_jax_max_pool_scatter" in mapped.lower(x).as_text()) == (form == "compiled")
    close(mapped(x), exact.max_pool_scatter(2 * y, place, x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_floats_and_empty_batches(dtype):
    ours, _ = both(3, 2, 1)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(ours(x) ** 2)))
    with jax.enable_x64(dtype == "float64"):
        x = image(2, 5, 5, 3, dtype=dtype)
        y, place = exact.max_pool(x, 3, 2, 1)
        got = gradient(x)
        assert got.dtype == x.dtype
        close(got, exact.max_pool_scatter(2 * y, place, x))
        close(gradient(x[:0]), x[:0])


def test_exported_with_an_unknown_batch_for_every_platform():
    ours, reference = both(3, 2, 1)
    (batch,) = export.symbolic_shape("batch")
    x = image(2, 6, 5, 3)
    abstract = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    close(export.export(jax.jit(ours), platforms=("cpu", "cuda", "tpu"))(abstract).call(x), reference(x))
