"""Mean-field rules for a layer at random initialization: mean square and mean of its output. Table: ``predict``."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import assert_never

import jax.numpy as jnp
import numpy as np

from resnet_jax.models.activation import ACTIVATIONS, GAINS
from resnet_jax.models.choices import ActivationChoice, InitChoice
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.plan import BlockSpec

#: Slope for negative inputs. The two moments have closed forms for these activations, and a quadrature for the others.
NEGATIVE_SLOPES = {"relu": 0.0, "leaky_relu": 0.01}


@dataclasses.dataclass(frozen=True)
class Signal:
    """Statistics of a feature map. Channels that were treated alike form a group; G is the number of groups.

    Attributes:
        channels: channels in each group, ``(G,)``.
        square: mean square, ``(G, *spatial)``.
        mean: mean, ``(G, *spatial)``.
        shared: mean product of a channel's values for two images, ``(G, *spatial)``: what all images have in common,
            and hence the mean square of the channels' means, which a batch norm removes. At least ``mean^2``.
        shape: quantiles of the values divided by their root mean square, ``(G, quantiles)``, if a reflected walk needs
            them; all zeros for channels of zeros.
    """

    channels: np.ndarray
    square: np.ndarray
    mean: np.ndarray
    shared: np.ndarray
    shape: np.ndarray

    @property
    def total(self) -> int:
        """Total number of channels."""
        return int(self.channels.sum())

    def over_channels(self, values: np.ndarray) -> np.ndarray:
        """Average ``(G, ...)`` over the channels."""
        return np.tensordot(self.channels / self.total, values, axes=1)

    def moments(self) -> tuple[float, float]:
        """Return mean square and mean over channels and positions."""
        return float(self.over_channels(self.square).mean()), float(self.over_channels(self.mean).mean())


def weight_variance(init: InitChoice, shape: Sequence[int]) -> float:
    """Return the variance of the weights that the initializer called ``init`` gives a kernel ``(*window, i, o)``.

    >>> round(weight_variance("kaiming_normal", (3, 3, 16, 32)) * 9 * 32, 6)
    2.0
    """
    fan_in, fan_out = math.prod(shape[:-1]), math.prod((*shape[:-2], shape[-1]))
    return {
        "kaiming_normal": 2.0 / fan_out,
        "kaiming_uniform": 2.0 / fan_out,
        "kaiming_normal_fan_in": 2.0 / fan_in,
        "kaiming_uniform_fan_in": 2.0 / fan_in,
        "xavier_normal": 2.0 / (fan_in + fan_out),
        "xavier_uniform": 2.0 / (fan_in + fan_out),
        "lecun_normal": 1.0 / fan_in,
        "orthogonal": 1.0 / max(fan_in, shape[-1]),
        "torch_uniform": 1.0 / (3.0 * fan_in),
        "normal_0.01": 1e-4,
        "zeros": 0.0,
    }[init]


def gaussian(channels: int, square: np.ndarray, shared: np.ndarray | None = None) -> Signal:
    """Build the signal of equal channels with mean 0."""
    nothing = np.zeros_like(square)[None]
    shared = nothing if shared is None else shared[None]
    return Signal(np.array([channels]), square[None], nothing, shared, half_normal()[None])


def scale(x: Signal, factor: float) -> Signal:
    return dataclasses.replace(x, square=x.square * factor**2, mean=x.mean * factor, shared=x.shared * factor**2)


def add(skip: Signal, branch: Signal) -> Signal:
    """Add a branch of mean 0 that is independent of the skip."""
    return dataclasses.replace(skip, square=skip.square + branch.square, shared=skip.shared + branch.shared)


def conv(
    config: ResNetConfig, x: Signal, features: int, kernel_size: int, strides: int, groups: int = 1, dilation: int = 1
) -> Signal:
    """Propagate through a convolution with fresh weights.

    With fan-in n, weights that sum to 0 and whose squares sum to S see only the deviation of n input numbers from their
    own
    mean: the expectation is S / (n - 1) times the sum of (x - mean)^2.
    """
    square, mean, shared = (x.over_channels(values) for values in (x.square, x.mean, x.shared))
    c_in = x.total // groups
    shape = (kernel_size,) * square.ndim + (c_in, features)
    total, common = (c_in * window_sum(values, kernel_size, strides, dilation) for values in (square, shared))
    if config.standardizes == "none":
        variance = weight_variance(config.init, shape)
        return gaussian(features, variance * total, variance * common)
    fan_in = math.prod(shape[:-1])
    scatter = c_in * window_sum(square - np.square(mean), kernel_size, strides, dilation)
    window_mean = c_in * window_sum(mean, kernel_size, strides, dilation) / fan_in
    of_mean = fan_in * np.square(window_mean)
    within, common = total - of_mean - scatter / fan_in, np.maximum(common - of_mean, 0.0)
    each = effective_variance(config, shape) * fan_in / (fan_in - 1)
    return gaussian(features, each * within, each * common)


def effective_variance(config: ResNetConfig, shape: Sequence[int]) -> float:
    """Return the variance of the weights that the convolution computes with, after standardization if there is one."""
    variance = weight_variance(config.init, shape)
    if config.standardizes == "none":
        return variance
    return variance / (variance + config.ws_eps) * (1 / math.prod(shape[:-1]) if config.standardizes == "scaled" else 1)


def window_sum(values: np.ndarray, kernel_size: int, strides: int, dilation: int = 1) -> np.ndarray:
    """Sum over windows centered on every ``strides``-th position, taps ``dilation`` apart, zeros outside.

    Half of an even number of zeros come before the map, and the smaller half of an odd number.
    """
    reach = dilation * (kernel_size - 1)
    for axis, size in enumerate(values.shape):
        border = np.zeros((values.ndim, 2), int)
        border[0] = reach // 2, reach - reach // 2
        lines = np.pad(np.moveaxis(values, axis, 0), border)
        shifted = [lines[offset : offset + size : strides] for offset in range(0, kernel_size * dilation, dilation)]
        values = np.moveaxis(np.sum(shifted, axis=0), 0, axis)
    return values


def norm(config: ResNetConfig, x: Signal, train: bool) -> Signal:
    """Normalize to mean 0 and variance 1 over the positions; ``layer`` over all channels, the others by groups of
    channels.

    Channels of group and instance norm are treated like those of batch norm, and one example's moments like those of
    all.
    """
    spatial = tuple(range(1, x.square.ndim))
    centre = x.mean.mean(axis=spatial, keepdims=True)
    square = x.square.mean(axis=spatial, keepdims=True)
    match config.norm:
        case "none" | "folded":
            return x
        case "batch" if not train or config.norm_scope == "frozen":
            return scale(x, 1.0 / math.sqrt(1.0 + config.norm_eps))
        case "layer":
            centre, square = x.over_channels(centre)[None], x.over_channels(square)[None]
        case "batch" | "group" | "instance":
            pass
        case _:
            assert_never(config.norm)
    variance = square - np.square(centre) + config.norm_eps
    centred, shared = (values - 2.0 * x.mean * centre + np.square(centre) for values in (x.square, x.shared))
    kept = shared / variance if config.norm in ("group", "layer") else np.zeros_like(x.shared)
    return dataclasses.replace(x, square=centred / variance, mean=(x.mean - centre) / np.sqrt(variance), shared=kept)


def subsample_and_pad(x: Signal, block: BlockSpec) -> Signal:
    """Option A: every ``strides``-th position, and a group of zero channels."""
    take = (slice(None), *(slice(None, None, block.strides),) * (x.square.ndim - 1))
    square, mean, shared = x.square[take], x.mean[take], x.shared[take]
    new = block.features - x.total
    if new == 0:
        return dataclasses.replace(x, square=square, mean=mean, shared=shared)
    return Signal(
        np.append(x.channels, new),
        np.concatenate([square, np.zeros_like(square[:1])]),
        np.concatenate([mean, np.zeros_like(mean[:1])]),
        np.concatenate([shared, np.zeros_like(shared[:1])]),
        np.concatenate([x.shape, np.zeros_like(x.shape[:1])]),
    )


def activate(config: ResNetConfig, x: Signal) -> Signal:
    """Activate Gaussian values, with the NF rules' gain."""
    square, mean = gaussian_moments(config.activation, x.square, x.mean)
    shared = _activated_shared(config, x, mean)
    shape = np.broadcast_to(half_normal(), x.shape.shape)
    y = dataclasses.replace(x, square=square, mean=mean, shared=shared, shape=shape)
    return scale(y, GAINS[config.activation]) if config.is_nf else y


def _activated_shared(config: ResNetConfig, x: Signal, activated_mean: np.ndarray) -> np.ndarray:
    """Return E[f(z) f(z')] for two images: over what they share, the squared mean of f over what they do not."""
    common = np.maximum(x.shared - np.square(x.mean), 0.0)
    if config.norm in ("none", "folded") or not common.any():
        return np.square(activated_mean)  # unused without a norm
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    total = np.zeros_like(common)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        mean = x.mean + np.sqrt(common) * node
        own = np.maximum(x.square - np.square(x.mean) - common, 0.0)
        total += weight * np.square(gaussian_moments(config.activation, own + np.square(mean), mean)[1])
    return total


def gaussian_moments(
    activation: ActivationChoice, square: np.ndarray, mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return second moment and mean of ``f(z)`` for Gaussian z of the given second moment and mean, elementwise.

    ReLU and leaky ReLU have closed forms; the others use Gauss-Hermite quadrature.

    >>> [float(value.round(6)) for value in gaussian_moments("relu", np.array(2.0), np.array(0.0))]
    [1.0, 0.56419]
    """
    std = np.asarray(np.sqrt(np.maximum(square - np.square(mean), 0.0)))
    if activation not in NEGATIVE_SLOPES:
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        z = mean[..., None] + std[..., None] * nodes
        y = np.asarray(ACTIVATIONS[activation](jnp.asarray(z, jnp.float32)), np.float64)
        weights = weights / weights.sum()
        return np.square(y) @ weights, y @ weights
    slope = NEGATIVE_SLOPES[activation]
    if not mean.any():
        return np.asarray(square * (1.0 + slope**2) / 2.0), np.asarray(std * (1.0 - slope) / math.sqrt(2.0 * math.pi))
    ratio = np.divide(mean, std, out=np.sign(mean) * 40.0, where=std > 0)
    above = normal_cdf(ratio)
    density = np.exp(-0.5 * np.square(ratio)) / math.sqrt(2.0 * math.pi)
    positive, positive_mean = square * above + mean * std * density, mean * above + std * density
    return positive + slope**2 * (square - positive), positive_mean + slope * (mean - positive_mean)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Return the probability that a standard normal number is below ``x``, elementwise."""
    return 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))


_erf = np.vectorize(math.erf, otypes=[np.float64])


# ---- the random walk reflected at 0 -----------------------------------------------------------------------------


def reflected_sum(skip: Signal, branch: Signal) -> Signal:
    """Return ``relu(skip + branch)`` for a skip that is not negative and a Gaussian branch.

    The distribution of the skip's values is tracked as quantiles: with batch norm every block adds a standard normal
    step, and the outputs are a random walk reflected at 0 (Lindley's recursion).
    """
    squares, means, shapes = [], [], []
    for square, shape in zip(skip.square, skip.shape, strict=True):
        values, _ = walk(square, shape, branch)
        root, step = math.sqrt(square.mean()), math.sqrt(branch.square[0].mean())
        values = np.maximum(values.ravel(), 0.0)
        after = np.square(values).mean()
        # each quantile represents an equal share of the values around it, by their root mean square
        quantiles = np.sqrt(np.square(np.sort(values)).reshape(shape.size, -1).mean(axis=1) / after)
        squares.append((square + branch.square[0]) * after / (root**2 + step**2))
        means.append(np.sqrt(squares[-1]) * values.mean() / math.sqrt(after))
        shapes.append(quantiles)
    mean = np.stack(means)
    return Signal(skip.channels, np.stack(squares), mean, np.square(mean), np.stack(shapes))


def walk(square: np.ndarray, shape: np.ndarray, branch: Signal) -> tuple[np.ndarray, np.ndarray]:
    """Return equally probable values before reflection, ``(quantiles, steps)``, and the quantile that each becomes."""
    root, step = math.sqrt(square.mean()), math.sqrt(branch.square[0].mean())
    values = root * shape[:, None] + step * normal(64)[None]
    becomes = np.empty(values.size, int)
    becomes[np.argsort(np.maximum(values, 0.0), axis=None, kind="stable")] = np.arange(values.size) // values.shape[1]
    return values, becomes.reshape(values.shape)


@functools.cache
def normal(count: int) -> np.ndarray:
    """Return ``count`` equally probable values of a standard normal variable, with variance 1."""
    values = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)])
    return _normalized(values)


@functools.cache
def half_normal() -> np.ndarray:
    """Return quantiles of relu(z), z standard normal, divided by their root mean square."""
    return _normalized(np.maximum(normal(256), 0.0))


def rectified_normal(ratio: float) -> np.ndarray:
    """Return such quantiles of relu(z + shift), with the shift that makes squared mean over mean square ``ratio``."""
    low, high = -2.5, 100.0  # at the lowest, 2 of the 256 quantiles are above 0
    for _ in range(50):
        shift = 0.5 * (low + high)
        below = _normalized(np.maximum(normal(256) + shift, 0.0)).mean() ** 2 < ratio
        low, high = (shift, high) if below else (low, shift)
    return _normalized(np.maximum(normal(256) + high, 0.0))


def _normalized(values: np.ndarray) -> np.ndarray:
    return values / np.sqrt(np.square(values).mean())
