"""Identities that act on the backward pass only: one measures the cotangent, one scales it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.ops.dtypes import at_least_float32


def squared_norm(x: Array) -> Float[Array, ""]:
    """Return the sum of squares of all elements, in float32 or wider."""
    return jnp.sum(jnp.square(x.astype(at_least_float32(x.dtype))))


@jax.custom_vjp
def tap(x: Float[Array, "*shape"], probe: Float[Array, ""]) -> Float[Array, "*shape"]:
    """Return ``x``; the gradient with respect to ``probe`` is the squared norm of the gradient with respect to ``x``.

    So the norms of the gradients at any number of places are one more gradient, of one number per place: nothing is
    kept and the gradients of everything else are what they were.

    Args:
        x: any array.
        probe: any number; its value means nothing.

    >>> def loss(x, probe):
    ...     return jnp.sum(jnp.array([3.0, 4.0]) * tap(x, probe))
    >>> float(jax.grad(loss, 1)(jnp.ones(2), 0.0))
    25.0
    """
    del probe
    return x


def _tap_backward(probe: Array, g: Array) -> tuple[Array, Array]:
    return g, squared_norm(g).astype(probe.dtype)


tap.defvjp(lambda x, probe: (x, jnp.asarray(probe)), _tap_backward)


def extremes(x: Array) -> Float[Array, " pair"]:
    """Return the largest absolute value that is finite, and how many values are not finite, float32.

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
        probe: any two numbers; their values mean nothing.

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
