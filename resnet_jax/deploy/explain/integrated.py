"""Integrated gradients: how much each input value adds to the score on the path from a baseline to the image."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.deploy.explain.forward import input_gradient, score
from resnet_jax.deploy.explain.settings import MOST_STEPS, STEPS, TOLERANCE
from resnet_jax.deploy.explain.targets import Target, as_target
from resnet_jax.errors import UsageError

Quadrature: TypeAlias = Literal["midpoint", "gauss_legendre"]
"""Where the gradient is evaluated: at the midpoints of equal parts of the path, or at Gauss-Legendre points."""


class Attributions(NamedTuple):
    """How much every value of an image adds to the score.

    Attributes:
        values: (N, *sides, C), positive where it raises the score; float32, or float64 for a network in float64.
        difference: score of the image minus that of the baseline, (N,), to which the values should sum.
        error: their sum minus that difference, (N,).
        steps: number of parts of the path from the baseline to the image, int32 (N,).
    """

    values: Array
    difference: Array
    error: Array
    steps: Array

    @property
    def relative_error(self) -> Array:
        """The error relative to the difference, (N,)."""
        return jnp.abs(self.error) / jnp.maximum(jnp.abs(self.difference), 1e-12)


@functools.partial(jax.jit, static_argnames=("model", "steps", "rule"))
def integrated_gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "n *sides c"],
    target: Any,
    baseline: Any = 0.0,
    *,
    steps: int = STEPS,
    rule: Quadrature = "midpoint",
) -> Attributions:
    r"""Return the integrated gradients of every image, and how closely they sum to the change of the score.

    .. math:: a_i = (x_i - b_i) \int_0^1 \frac{\partial f(b + t (x - b))}{\partial x_i} \, dt, \qquad
              \sum_i a_i = f(x) - f(b)

    M. Sundararajan et al. 2017, *Axiomatic Attribution for Deep Networks* (arXiv 1703.01365, equation 1). The integral
    is a sum over ``steps`` points, so the second equation, completeness, holds up to ``error``. The gradient of a ReLU
    network jumps along the path, so Gauss-Legendre quadrature (Captum's default) has no advantage: see docs/explain.md.
    :func:`.integrated_gradients_within` takes as many steps as a given error needs.

    Args:
        model: the network.
        variables: its variables.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        baseline: an image without content that broadcasts to the images; 0 is the mean of the training images.
        steps: number of parts of the path.
        rule: the quadrature rule.

    Raises:
        UsageError: fewer than 1 step.
    """
    if steps < 1:
        raise UsageError(f"integrated gradients need 1 step or more, got {steps}")
    target = as_target(target)
    images = images.astype(images.dtype if images.dtype == jnp.float64 else jnp.float32)
    base = jnp.broadcast_to(jnp.asarray(baseline, images.dtype), images.shape)
    points = tuple(jnp.asarray(each, images.dtype) for each in _points(steps, rule))

    def add(total: Array, point: tuple[Array, ...]) -> tuple[Array, None]:
        at, weight = point
        _, gradient = input_gradient(model, variables, base + at * (images - base), target)
        return total + weight * gradient, None

    mean, _ = jax.lax.scan(add, jnp.zeros_like(images), points)
    values, difference = mean * (images - base), _difference(model, variables, images, base, target)
    return Attributions(values, difference, _total(values) - difference, jnp.full(len(images), steps, jnp.int32))


@functools.partial(jax.jit, static_argnames=("model", "steps", "most"))
def integrated_gradients_within(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "n *sides c"],
    target: Any,
    tolerance: Any = TOLERANCE,
    baseline: Any = 0.0,
    *,
    steps: int = STEPS,
    most: int = MOST_STEPS,
) -> Attributions:
    r"""Return integrated gradients that sum to the change of the score within a relative error, if the steps suffice.

    A sum M_n over the midpoints of n parts of the path is followed by a sum E_n over n + 1 parts between these
    midpoints, of which the first and the last are half as wide, and then by the midpoints of 2n, 4n, ... parts. All
    gradients are reused, and none is evaluated at the baseline itself, where a network that standardizes its input has
    none:

    .. math:: S_{2n} = (M_n + E_n) / 2, \qquad S_{4n} = (S_{2n} + M_{2n}) / 2, \qquad \ldots

    An image within the tolerance keeps its values, whatever the others in the batch need. The time of a batch is that
    of the image with the most steps.

    Args:
        model: the network.
        variables: its variables.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        tolerance: maximum ``relative_error``, one number or one per image (N,); infinity: exactly ``steps``.
        baseline: as in :func:`integrated_gradients`.
        steps: initial number of parts of the path.
        most: maximum number, even if the tolerance is not reached.

    Raises:
        UsageError: fewer than 1 step, or a maximum below the initial number.
    """
    if not 1 <= steps <= most:
        raise UsageError(f"integrated gradients need 1 step or more and at most {most}, got {steps}")
    target = as_target(target)
    images = images.astype(images.dtype if images.dtype == jnp.float64 else jnp.float32)
    base = jnp.broadcast_to(jnp.asarray(baseline, images.dtype), images.shape)
    difference = _difference(model, variables, images, base, target)

    def mean(parts: Array, between: Array) -> Array:
        """Average gradients over the midpoints of parts, or over the parts between these midpoints."""

        def add(i: Array, total: Array) -> Array:
            at_end = between & ((i == 0) | (i == parts))
            inward = jnp.where(at_end, jnp.where(i == 0, 0.25, -0.25), 0.0)
            place = i.astype(images.dtype) + jnp.where(between, inward, 0.5).astype(images.dtype)
            point = base + place / parts.astype(images.dtype) * (images - base)
            weight = jnp.where(at_end, 0.5, 1.0).astype(images.dtype)
            return total + weight * input_gradient(model, variables, point, target)[1]

        count = parts + between.astype(parts.dtype)
        return jax.lax.fori_loop(0, count, add, jnp.zeros_like(images)) / parts.astype(images.dtype)

    def open_ones(known: Attributions) -> Array:
        return known.relative_error > tolerance  # False for NaN, which more steps do not repair

    def refined(state: tuple[Array, Attributions]) -> tuple[Array, Attributions]:
        level, known = state
        parts = steps * 2 ** jnp.maximum(level - 1, 0)
        values = mean(parts, level == 1) * (images - base)
        values = jnp.where(level == 0, values, (known.values + values) / 2)
        reached = jnp.full_like(known.steps, steps * 2**level)
        found = Attributions(values, difference, _total(values) - difference, reached)
        done = (level > 0) & ~open_ones(known)

        def kept(old: Array, new: Array) -> Array:
            return jnp.where(done.reshape(-1, *(1,) * (new.ndim - 1)), old, new)

        return level + 1, jax.tree.map(kept, known, found)

    def unfinished(state: tuple[Array, Attributions]) -> Array:
        level, known = state
        return (level == 0) | ((steps * 2**level <= most) & open_ones(known).any())

    unknown = Attributions(
        jnp.zeros_like(images), difference, jnp.full_like(difference, jnp.nan), jnp.zeros(len(images), jnp.int32)
    )
    return jax.lax.while_loop(unfinished, refined, (jnp.int32(0), unknown))[1]


def _difference(model: nn.Module, variables: Any, images: Array, base: Array, target: Target) -> Array:
    return score(model, variables, images, target) - score(model, variables, base, target)


def _total(values: Array) -> Array:
    return values.sum(axis=tuple(range(1, values.ndim)))


def _points(steps: int, rule: Quadrature) -> tuple[np.ndarray, np.ndarray]:
    """Return the points between 0 and 1 and their weights, which sum to 1."""
    match rule:
        case "midpoint":
            return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
        case "gauss_legendre":
            nodes, weights = np.polynomial.legendre.leggauss(steps)
            return 0.5 + 0.5 * nodes, 0.5 * weights
        case _:
            assert_never(rule)
