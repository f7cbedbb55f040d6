"""Integrated gradients: what each value of the input adds to the score, on the way from a baseline to the image."""

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
from resnet_jax.deploy.explain.targets import as_target
from resnet_jax.errors import UsageError

STEPS = 64
Quadrature: TypeAlias = Literal["midpoint", "gauss_legendre"]
"""Where the gradient is taken: in the middle of equal parts of the way, or at the points of a Gauss-Legendre sum."""


class Attributions(NamedTuple):
    """What every value of an image adds to the score.

    Attributes:
        values: float32 (N, *sides, C), positive where it raises the score.
        difference: the score of the image minus that of the baseline, (N,), which the values should add up to.
        error: their sum minus that difference, (N,).
    """

    values: Array
    difference: Array
    error: Array

    @property
    def relative_error(self) -> Array:
        """The error as a share of the difference, (N,)."""
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
    r"""Return the integrated gradients of every image, and how nearly they add up to the change of the score.

    .. math:: a_i = (x_i - b_i) \int_0^1 \frac{\partial f(b + t (x - b))}{\partial x_i} \, dt, \qquad
              \sum_i a_i = f(x) - f(b)

    M. Sundararajan et al. 2017, *Axiomatic Attribution for Deep Networks* (arXiv 1703.01365, equation 1). The integral
    is a sum over ``steps`` points, and the second equation, completeness, holds up to ``error``. The gradient of a ReLU
    network jumps along the way, so that a Gauss-Legendre sum (Captum's default) has no advantage: see
    docs/explain.md for how far either is from the integral.

    Args:
        model: the network.
        variables: its own.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        baseline: an image without content, that broadcasts to the images: 0 is the mean of the training images.
        steps: points of the sum.
        rule: how they are chosen.

    Raises:
        UsageError: fewer than 1 step.
    """
    if steps < 1:
        raise UsageError(f"integrated gradients need 1 step or more, got {steps}")
    target = as_target(target)
    images = images.astype(jnp.float32)
    base = jnp.broadcast_to(jnp.asarray(baseline, jnp.float32), images.shape)
    points = tuple(jnp.asarray(each, jnp.float32) for each in _points(steps, rule))

    def add(total: Array, point: tuple[Array, ...]) -> tuple[Array, None]:
        at, weight = point
        _, gradient = input_gradient(model, variables, base + at * (images - base), target)
        return total + weight * gradient, None

    mean, _ = jax.lax.scan(add, jnp.zeros_like(images), points)
    values = mean * (images - base)
    difference = score(model, variables, images, target) - score(model, variables, base, target)
    return Attributions(values, difference, values.sum(axis=tuple(range(1, values.ndim))) - difference)


def _points(steps: int, rule: Quadrature) -> tuple[np.ndarray, np.ndarray]:
    """Return the points between 0 and 1 and their weights, which add up to 1."""
    match rule:
        case "midpoint":
            return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
        case "gauss_legendre":
            nodes, weights = np.polynomial.legendre.leggauss(steps)
            return 0.5 + 0.5 * nodes, 0.5 * weights
        case _:
            assert_never(rule)
