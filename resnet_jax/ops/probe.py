"""Identities that act only on the backward pass: some measure the cotangent, one scales it.

A gradient is measured where two of them meet: at the input of a residual block, the gradient through the skip is added
to that through the branch. :func:`fork` is that place. On the CPU, in float32 and where no compiler splits the batch,
one compiled pass (``native/probe.cc``) adds, masks by the ReLU before the block and sums the squares; everywhere else
these are operations that a compiler can fuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad
from jaxtyping import Array, Float

from resnet_jax.ops import native
from resnet_jax.ops.dtypes import at_least_float32
from resnet_jax.ops.lowering import leading_axis_primitive, vary_alike
from resnet_jax.ops.reference import plain_lax_wanted


def squared_norm(x: Array) -> Float[Array, ""]:
    """Return the sum of squares of all elements, in float32 or wider."""
    return jnp.sum(jnp.square(x.astype(at_least_float32(x.dtype))))


def _plain_squares(g: Array) -> tuple[Array]:
    """Return the sum of squares of each row of the leading axis."""
    wide = g.astype(at_least_float32(g.dtype))
    return (jnp.sum(jnp.square(wide), tuple(range(1, g.ndim))),)


def _plain_join(a: Array, b: Array, *mask: Array) -> tuple[Array, Array]:
    """Return the sum of two gradients, masked to 0 where the mask is not positive, and each row's squared norm before
    that.
    """
    g = a + b
    (squares,) = _plain_squares(g)
    for z in mask:
        g = jnp.where(z > 0, g, jnp.zeros_like(g))
    return g, squares


squares_p = leading_axis_primitive("probe_squares", _plain_squares, native.squares)
join_p = leading_axis_primitive("probe_join", _plain_join, native.join)
ad.primitive_jvps[squares_p] = partial(jax.jvp, _plain_squares)
ad.primitive_jvps[join_p] = partial(jax.jvp, _plain_join)


@jax.custom_vjp
def tap(x: Float[Array, "*shape"], probe: Float[Array, ""]) -> Float[Array, "*shape"]:
    """Return ``x``; the gradient with respect to ``probe`` is the squared norm of the gradient with respect to ``x``.

    The norms of the gradients at any number of places are thus one more gradient, of one number per place: nothing is
    kept, and the gradients of everything else are unchanged.

    Args:
        x: any array.
        probe: any number; its value is irrelevant.

    >>> def loss(x, probe):
    ...     return jnp.sum(jnp.array([3.0, 4.0]) * tap(x, probe))
    >>> float(jax.grad(loss, 1)(jnp.ones(2), 0.0))
    25.0
    """
    del probe
    return x


def _squares(g: Array, probe: Array) -> Array:
    """Return the squared norm of ``g`` as the gradient of ``probe``."""
    if g.ndim == 0:
        return jnp.square(g).astype(probe.dtype)
    (rows,) = _plain_squares(g) if plain_lax_wanted() else squares_p.bind(g)
    return _in_shape(rows, probe)


def _in_shape(rows: Array, probe: Array) -> Array:
    return (rows if probe.ndim else jnp.sum(rows)).astype(probe.dtype)


def _tap_backward(probe: Array, g: Array) -> tuple[Array, Array]:
    return g, _squares(g, probe)


tap.defvjp(lambda x, probe: (x, jnp.asarray(probe)), _tap_backward)


def fork(x: Float[Array, "*shape"], probe: Float[Array, "*rows"], *, relu: bool = False) -> tuple[Array, Array]:
    """Return ``x``, or its positive part, twice; a :func:`tap` on both together.

    The gradient with respect to ``probe`` is the squared norm of the sum of the gradients with respect to the two. If
    ``probe`` has a number for each row of the leading axis, it is that of each row, so that the sums for many places
    take one operation.

    Args:
        x: any array.
        probe: any number, or one for each row of ``x``; the values are irrelevant.
        relu: take the positive part. Its mask does not affect what is measured.

    >>> def loss(x, probe):
    ...     skip, branch = fork(x, probe, relu=True)
    ...     return jnp.sum(skip + jnp.array([2.0, 3.0]) * branch)
    >>> [g.tolist() for g in jax.grad(loss, (0, 1))(jnp.array([1.0, -1.0]), 0.0)]
    [[3.0, 0.0], 25.0]
    """
    pair: Any = _fork(x, probe, relu)
    return pair


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _fork(x, probe, relu):
    del probe
    y = jax.nn.relu(x) if relu else x
    return y, y


def _fork_forward(x, probe, relu):
    y = jax.nn.relu(x.value) if relu else x.value
    return (y, y), (y if relu else None, jnp.asarray(probe.value))


def _fork_backward(relu, kept, cotangents):
    y, probe = kept
    skip, branch = (None if isinstance(g, SymbolicZero) else g for g in cotangents)
    if skip is not None and branch is not None and not plain_lax_wanted() and branch.ndim > 0:
        g, squares = join_p.bind(*vary_alike(branch, skip, *((y,) if relu else ())))  # the branch's is a new array
        return g, _in_shape(squares, probe)
    there = [g for g in (skip, branch) if g is not None]
    if not there:
        return None, jnp.zeros_like(probe)
    g = sum(there[1:], there[0])
    squares = _squares(g, probe)
    return jnp.where(y > 0, g, jnp.zeros_like(g)) if relu else g, squares


_fork.defvjp(_fork_forward, _fork_backward, symbolic_zeros=True)

_RELUS: ContextVar[dict[int, tuple[Array, Array]] | None] = ContextVar("relus", default=None)


def _plain_relu(x: Array) -> tuple[Array]:
    return (jnp.maximum(x, jnp.zeros((), x.dtype)),)


def _relu_on_gpu(x: Array) -> tuple[Array]:
    """Materialize the result: otherwise XLA would rather recompute it for its mask, from everything it was made of."""
    return (lax.optimization_barrier(jnp.maximum(x, jnp.zeros((), x.dtype))),)


relu_p = leading_axis_primitive("relu", _plain_relu, on_gpu=_relu_on_gpu)


def _relu_jvp(primals, tangents):
    """Use the output, which is kept, instead of the input."""
    (y,), (dx,) = relu_p.bind(*primals), tangents
    if isinstance(dx, ad.Zero):
        return (y,), [ad.Zero(jax.typeof(y))]
    return (y,), [jnp.where(y > 0, dx, jnp.zeros_like(dx))]


ad.primitive_jvps[relu_p] = _relu_jvp


@contextmanager
def remembered_relus() -> Iterator[None]:
    """Within this context, :func:`relu_operand` knows the operands of :func:`relu`."""
    token = _RELUS.set({})
    try:
        yield
    finally:
        _RELUS.reset(token)


def relu(x: Array) -> Array:
    """Return the positive part of ``x``.

    >>> relu(jnp.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    y = jax.nn.relu(x) if plain_lax_wanted() or jnp.ndim(x) == 0 else relu_p.bind(x)[0]
    known = _RELUS.get()
    if known is not None:
        known[id(y)] = (y, x)  # keeping y ensures that nothing else gets its id
    return y


def relu_operand(y: Array) -> Array | None:
    """Return ``x`` if ``y`` is the very array that ``relu(x)`` returned within :func:`remembered_relus`, otherwise
    None.
    """
    known = (_RELUS.get() or {}).get(id(y))
    return None if known is None else known[1]


def extremes(x: Array) -> Float[Array, " pair"]:
    """Return the largest finite absolute value, and the number of values that are not finite, float32.

    >>> extremes(jnp.array([1.0, -3.0, jnp.inf])).tolist()
    [3.0, 1.0]
    """
    wide = x.astype(at_least_float32(x.dtype))
    finite = jnp.isfinite(wide)
    largest = jnp.max(jnp.where(finite, jnp.abs(wide), jnp.zeros((), wide.dtype)), initial=0.0)
    return jnp.stack([largest, jnp.sum(~finite, dtype=wide.dtype)]).astype(jnp.float32)


@jax.custom_vjp
def tap_extremes(x: Float[Array, "*shape"], probe: Float[Array, " pair"]) -> Float[Array, "*shape"]:
    """Return ``x``; the gradient with respect to ``probe`` is :func:`extremes` of the gradient with respect to ``x``.

    Args:
        x: any array.
        probe: any two numbers; their values are irrelevant.

    >>> def loss(x, probe):
    ...     return jnp.sum(jnp.array([3.0, jnp.inf]) * tap_extremes(x, probe))
    >>> jax.grad(loss, 1)(jnp.ones(2), jnp.zeros(2)).tolist()
    [3.0, 1.0]
    """
    del probe
    return x


def _tap_extremes_backward(probe: Array, g: Array) -> tuple[Array, Array]:
    return g, extremes(g).astype(probe.dtype)


tap_extremes.defvjp(lambda x, probe: (x, jnp.asarray(probe)), _tap_extremes_backward)


@jax.custom_vjp
def gate(x: Float[Array, "*shape"], factor: Float[Array, ""]) -> Float[Array, "*shape"]:
    """Return ``x``; the gradient with respect to it is multiplied by ``factor``.

    >>> float(jax.grad(lambda x: gate(x * x, 0.5))(3.0))
    3.0
    """
    del factor
    return x


def _gate_backward(factor: Array, g: Array) -> tuple[Array, Array]:
    return g * factor.astype(g.dtype), jnp.zeros_like(factor)


gate.defvjp(lambda x, factor: (x, jnp.asarray(factor)), _gate_backward)
