"""Mean-field rules for a layer at random initialization, backward: the squared gradient at its input from its output's.

Each rule takes the signal that entered the layer (:mod:`resnet_jax.depth.mean_field`) and the mean square of the
gradient with respect to its output. Gradients are assumed to be independent of the weights they pass and of each other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import assert_never

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.depth.mean_field import NEGATIVE_SLOPES, Signal, effective_variance, normal_cdf, walk
from resnet_jax.models.activation import ACTIVATIONS, GAINS
from resnet_jax.models.choices import ActivationChoice
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.plan import BlockSpec


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Statistics of the gradient with respect to a feature map; G groups of channels as in its signal.

    Attributes:
        square: mean square, ``(G, *spatial)``.
        profile: mean square at each quantile of the signal's values, relative to that at all of them, ``(G,
            quantiles)``. A ReLU passes no gradient where its input is negative; on a skip that stays there, the next
            one cannot stop it again.
    """

    square: np.ndarray
    profile: np.ndarray

    def total(self, x: Signal) -> float:
        """Return the squared norm, over channels and positions of ``x``."""
        return float(np.tensordot(x.channels, self.square, axes=1).sum())


def flat(square: np.ndarray, x: Signal) -> Gradient:
    """Build a gradient that does not depend on the values of ``x``; ``square`` is broadcast to its groups."""
    return Gradient(np.broadcast_to(square, x.square.shape), np.ones_like(x.shape))


def scale(g: Gradient, factor: float) -> Gradient:
    """Propagate through a multiplication by ``factor``."""
    return dataclasses.replace(g, square=g.square * factor**2)


def add(first: Gradient, second: Gradient) -> Gradient:
    """Add independent gradients with respect to the same feature map."""
    shares = [g.square.reshape(len(g.square), -1).mean(axis=1)[:, None] for g in (first, second)]
    both = shares[0] + shares[1]
    mixed = shares[0] * first.profile + shares[1] * second.profile
    return Gradient(first.square + second.square, np.divide(mixed, both, out=np.ones_like(mixed), where=both > 0))


def conv(
    config: ResNetConfig,
    x: Signal,
    g: Gradient,
    features: int,
    kernel_size: int,
    strides: int,
    groups: int,
    dilation: int = 1,
) -> Gradient:
    """Propagate through a convolution: the adjoint of the forward rule (He et al. 2015, arXiv 1502.01852, eq. 14)."""
    shape = (kernel_size,) * (x.square.ndim - 1) + (x.total // groups, features)
    spread = window_spread(g.square[0], x.square.shape[1:], kernel_size, strides, dilation)
    return flat(effective_variance(config, shape) * (features // groups) * spread, x)


def window_spread(
    values: np.ndarray, sizes: tuple[int, ...], kernel_size: int, strides: int, dilation: int = 1
) -> np.ndarray:
    """Return the adjoint of :func:`~resnet_jax.depth.mean_field.window_sum` for maps of ``sizes``."""
    reach = dilation * (kernel_size - 1)
    for axis, size in enumerate(sizes):
        values = np.moveaxis(values, axis, 0)
        lines = np.zeros((size + reach, *values.shape[1:]))
        for offset in range(0, kernel_size * dilation, dilation):
            lines[offset : offset + size : strides] += values
        values = np.moveaxis(lines[reach // 2 : reach // 2 + size], 0, axis)
    return values


def norm(config: ResNetConfig, x: Signal, g: Gradient, train: bool, batch: float) -> Gradient:
    """Propagate through a normalization: divide by the variance, without the part of the channels' means (batch,
    instance).

    The variance is less than the mean square, which is why batch norm over ReLUs makes gradients grow: by pi / (pi - 1)
    per layer (Yang et al. 2019, arXiv 1902.08129, for large batches). Of M numbers normalized together, two directions
    are lost.
    """
    spatial = tuple(range(1, x.square.ndim))
    moments = [values.mean(axis=spatial, keepdims=True) for values in (x.square, x.shared, x.mean)]
    examples = 1.0
    match config.norm:
        case "none" | "folded":
            return g
        case "batch" if not train or config.norm_scope == "frozen":
            return scale(g, 1.0 / math.sqrt(1.0 + config.norm_eps))
        case "layer":
            together = x.total
            moments = [x.over_channels(values)[None] for values in moments]
        case "group":
            together = x.total // config.norm_groups
        case "batch":
            together, examples = 1, batch
        case "instance":
            together = 1
        case _:
            assert_never(config.norm)
    square, shared, centre = moments
    of_means = np.square(centre) + (shared - np.square(centre)) / together  # the square of a mean over its channels
    variance = square - of_means + config.norm_eps
    count = together * math.prod(x.square.shape[1:]) * examples
    return dataclasses.replace(g, square=g.square / variance * max(1.0 - 2.0 / count, 0.0))


def activate(config: ResNetConfig, x: Signal, y: Signal, g: Gradient) -> Gradient:
    """Propagate through the activation of Gaussian values, with the NF rules' gain."""
    slope = squared_slope(config.activation, x.square, x.mean)
    if config.activation == "relu":  # the quantiles of the output where it passes
        alive = y.shape > 0
        passed = (g.profile * alive).mean(axis=1) / np.maximum(alive.mean(axis=1), 1e-300)
        slope = slope * passed.reshape(-1, *(1,) * (slope.ndim - 1))
    return scale(flat(g.square * slope, x), GAINS[config.activation] if config.is_nf else 1.0)


def squared_slope(activation: ActivationChoice, square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return E[f'(z)^2] for Gaussian z of the given second moment and mean, elementwise.

    ReLU and leaky ReLU have closed forms; the others use Gauss-Hermite quadrature.

    >>> float(squared_slope("relu", np.array([2.0]), np.array([0.0]))[0])
    0.5
    """
    std = np.sqrt(np.maximum(square - np.square(mean), 0.0))
    if activation in NEGATIVE_SLOPES:
        slope = NEGATIVE_SLOPES[activation]
        ratio = np.divide(mean, std, out=np.sign(mean) * 40.0, where=std > 0)
        above = normal_cdf(ratio)
        at_zero = 1.0 if slope else 0.0  # as in JAX
        return np.where((std == 0) & (mean == 0), at_zero, above + slope**2 * (1.0 - above))
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    z = mean[..., None] + std[..., None] * nodes
    slopes = np.asarray(_derivative(activation)(jnp.asarray(z.ravel(), jnp.float32)), np.float64).reshape(z.shape)
    return np.square(slopes) @ (weights / weights.sum())


@functools.cache
def _derivative(activation: ActivationChoice):
    return jax.jit(jax.vmap(jax.grad(ACTIVATIONS[activation])))


def subsample_and_pad(x: Signal, block: BlockSpec, g: Gradient) -> Gradient:
    """Propagate through option A, back to every ``strides``-th position; what reached the zero channels is lost."""
    square = np.zeros(x.square.shape)
    old = len(x.channels)
    square[(slice(None), *(slice(None, None, block.strides),) * (square.ndim - 1))] = g.square[:old]
    return Gradient(square, g.profile[:old])


def reflected_sum(skip: Signal, branch: Signal, g: Gradient) -> tuple[Gradient, Gradient]:
    """Propagate through ``relu(skip + branch)``: the gradients with respect to the skip and to the branch.

    The gradient at a value of the skip is the mean, over the branch's steps, of the gradient at the value that it
    becomes, and 0 where that is cut off: the adjoint of the reflected walk.
    """
    to_skip, profiles, to_branch = [], [], []
    for square, shape, incoming, profile in zip(skip.square, skip.shape, g.square, g.profile, strict=True):
        values, becomes = walk(square, shape, branch)
        passed = (profile[becomes] * (values > 0)).mean(axis=1)
        share = passed.mean()
        to_skip.append(incoming * share)
        profiles.append(passed / share if share > 0 else np.ones_like(passed))
        to_branch.append(incoming * share)
    through = Gradient(np.stack(to_skip), np.stack(profiles))
    return through, flat(skip.over_channels(np.stack(to_branch)), branch)


def rectified(x: Signal, g: Gradient) -> Gradient:
    """Propagate through ``relu(x)`` of values that are not negative: only where they are 0 is anything lost, and only
    once.
    """
    alive = (g.profile * (x.shape > 0)).astype(float)
    share = alive.mean(axis=1)
    profile = np.divide(alive, share[:, None], out=np.ones_like(alive), where=share[:, None] > 0)
    return Gradient(g.square * share.reshape(-1, *(1,) * (g.square.ndim - 1)), profile)
