"""Maximum over windows against JAX's own ``reduce_window``, its derivatives and a loop."""

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
from resnet_jax.ops import native
from tests.ops.exact import close

SIZES = [(3, 2, 1), (2, 2, 0), (3, 1, 2), (4, 3, 0), (1, 2, 0)]


def both(window, stride, padding):
    def reference(x):
        dims = x.ndim - 2
        return nn.max_pool(x, (window,) * dims, (stride,) * dims, ((padding, padding),) * dims)

    return lambda x: ops.max_pool(x, window=window, stride=stride, padding=padding), reference


def image(*shape, seed=0, dtype: DTypeLike = np.float32):
    """Return numbers of which many are equal."""
    return jnp.asarray(np.random.default_rng(seed).integers(-3, 4, shape), dtype)


def derivatives(f):
    """Return value, gradient, tangent and two Hessian-vector products of a sine over ``f``."""

    def everything(x, dx):
        def energy(x):
            return jnp.sum(jnp.sin(1.3 * f(x) * jnp.arange(1.0, f(x).size + 1, dtype=x.dtype).reshape(f(x).shape)))

        gradient = jax.grad(energy)
        return (
            f(x),
            gradient(x),
            jax.jvp(f, (x,), (dx,))[1],
            jax.jvp(gradient, (x,), (dx,))[1],
            jax.grad(lambda x: jnp.vdot(gradient(x), dx))(x),
        )

    return everything


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(2, 7, 6, 5), (1, 5, 9, 33), (2, 9, 3), (1, 5, 4, 6, 2)])
def test_value_and_derivatives_of_both_orders(form, shape, size):
    """With many equal numbers: the gradient goes to the first of them."""
    ours, reference = both(*size)
    x, dx = image(*shape), jax.random.normal(jax.random.key(0), shape)
    close(jax.jit(derivatives(ours))(x, dx), jax.jit(derivatives(reference))(x, dx))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    window=st.integers(1, 4), stride=st.integers(1, 4), padding=st.integers(0, 3), n=st.integers(1, 2),
    extra=st.tuples(st.integers(0, 5), st.integers(0, 5)), channels=st.integers(1, 40),
)  # fmt: skip
def test_any_size_is_that_of_jax(window, stride, padding, n, extra, channels):
    ours, reference = both(window, stride, padding)
    x = image(n, *(max(1, window - 2 * padding) + more for more in extra), channels)
    ours, reference = (
        jax.jit(lambda x, f=f: (f(x), jax.grad(lambda x: jnp.sum(f(x) ** 2))(x))) for f in (ours, reference)
    )
    if padding < window:  # a window of nothing but padding has no maximum
        close(ours(x), reference(x))
    else:
        close(ours(x)[0][jnp.isfinite(ours(x)[0])], reference(x)[0][jnp.isfinite(reference(x)[0])])


def test_the_compiled_forms_are_used():
    if not native.available():
        pytest.skip("no C++ compiler")
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


@pytest.mark.parametrize("axis", [0, 3])
def test_vmap_scan_and_remat(form, axis):
    ours, reference = both(3, 1, 1)
    x = image(3, 2, 5, 4, 6)

    def repeated(f):
        body = jax.checkpoint(lambda x, _: (f(x) * 0.5 + x, None))
        total = lambda x: jnp.sum(lax.scan(body, x, None, length=3)[0] ** 2)  # noqa: E731
        return jax.jit(jax.vmap(jax.grad(total), axis))

    x = jnp.moveaxis(x, 0, axis)
    close(repeated(ours)(x), repeated(reference)(x))


def test_a_split_batch_needs_no_communication():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    ours, reference = both(3, 2, 1)
    split = NamedSharding(mesh, P("data"))
    x = image(16, 6, 5, 3)
    gradients = [jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2)), in_shardings=split) for f in (ours, reference)]
    text = gradients[0].lower(x).compile().as_text() or ""
    assert "resnet_jax_max_pool" not in text
    assert not any(word in text for word in ("all-", "collective-permute"))
    close(*(gradient(x) for gradient in gradients))


def test_shard_map_other_floats_and_empty_batches(form):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    ours, reference = both(3, 2, 1)
    ours, reference = (jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2)) for f in (ours, reference))
    mapped = jax.shard_map(ours, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    x = image(8, 5, 5, 3)
    close(jax.jit(mapped)(x), reference(x))
    for dtype in (jnp.bfloat16, jnp.float16):
        close(jax.jit(ours)(x.astype(dtype)), jax.jit(reference)(x.astype(dtype)))
    close(ours(x[:0]), reference(x[:0]))
    with jax.enable_x64(True):
        close(
            jax.jit(ours)(image(2, 5, 5, 3, dtype=np.float64)), jax.jit(reference)(image(2, 5, 5, 3, dtype=np.float64))
        )


def test_exported_with_an_unknown_batch_for_every_platform():
    ours, reference = both(3, 2, 1)
    (batch,) = export.symbolic_shape("batch")
    x = image(2, 6, 5, 3)
    abstract = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    close(export.export(jax.jit(ours), platforms=("cpu", "cuda", "tpu"))(abstract).call(x), reference(x))
