"""Mean square and mean of what every block puts out at initialization, predicted without running the network.

Mean-field propagation. Everything is an expectation over the random weights and over images whose pixels are
independent N(0, 1). Two maps over the positions are carried from layer to layer, mean square ``q(p)`` and mean
``m(p)`` of an activation, so that zero padding is exact: near a border a window sums fewer terms.

==========================  ==========================================================================================
layer                       rule
==========================  ==========================================================================================
convolution                 weights of mean 0 and variance s^2: ``q(p) -> s^2 c_in sum_window q``, ``m -> 0`` (He et
                            al. 2015, arXiv 1502.01852, eq. 10). Exact.
standardized convolution    weights of a unit sum to 0, their squares to a constant: ``q`` becomes the variance within
                            a window, padding included (Brock et al. 2021, arXiv 2101.08692, section 4.1)
activation                  second moment and mean of f(N(m, q - m^2)); for ReLU at m = 0: ``q / 2``, ``sqrt(q / 2 pi)``
norm                        divides by the mean over positions, ``q(p) -> q(p) / mean q``, ``m -> 0`` on the average
skip + branch               the branch has mean 0 and is independent: ``q`` adds. A branch that starts at 0 adds nothing
``relu(skip + branch)``     nothing if the branch is 0, for the skip is not negative already. A projected skip is
                            Gaussian. Else the skip is a random walk reflected at 0, whose distribution is carried too
==========================  ==========================================================================================

What the rules leave out is the scatter of one draw of the weights, of relative size sqrt(5 / width) for each layer of
a ReLU net without norm and much less for the others, and how an image's own signal differs from the mean over images.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from statistics import NormalDist

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from resnet_jax.depth.measure import Moments
from resnet_jax.errors import UsageError
from resnet_jax.models.activation import ACTIVATIONS, GAINS
from resnet_jax.models.block import branch_convs
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.plan import BlockPlan, plan_stages, stem_widths

#: Slope for negative inputs: for these activations the two moments have closed forms, for the others a quadrature.
_NEGATIVE_SLOPES = {"relu": 0.0, "leaky_relu": 0.01}

#: Residual rules whose branch is exactly 0 at initialization.
_ZERO_BRANCH = ("zero_gamma", "skipinit", "rezero", "fixup", "nf_gain")


@dataclasses.dataclass(frozen=True)
class Signal:
    """What is known of a feature map. Channels that were treated alike form a group; G is the number of groups.

    Attributes:
        channels: channels in each group, ``(G,)``.
        square: mean square, ``(G, *spatial)``.
        mean: mean, ``(G, *spatial)``.
        shape: quantiles of the values divided by their root mean square, ``(G, quantiles)``, where a reflected walk
            needs them; all zeros for channels of zeros.
    """

    channels: np.ndarray
    square: np.ndarray
    mean: np.ndarray
    shape: np.ndarray

    @property
    def total(self) -> int:
        """Channels in all."""
        return int(self.channels.sum())

    def over_channels(self, values: np.ndarray) -> np.ndarray:
        """Average ``(G, ...)`` over the channels."""
        return np.tensordot(self.channels / self.total, values, axes=1)

    def moments(self) -> tuple[float, float]:
        """Return mean square and mean over channels and positions."""
        return float(self.over_channels(self.square).mean()), float(self.over_channels(self.mean).mean())


def predict_moments(
    config: ResNetConfig,
    image_size: int | Sequence[int],
    *,
    stem: tuple[ArrayLike, ArrayLike] | None = None,
    train: bool = True,
) -> Moments:
    """Return the moments of every block's output at initialization, as an expectation over the weights.

    Nothing is dropped: dropout and stochastic depth are taken as 0, as in :func:`~resnet_jax.depth.measure_moments`.

    How near a measurement comes (16 to 32 channels, 8 to 16 pixels, mean of 8 draws): zero branches with option A 1 %
    of the stem's scale; with norm, or with the NF rules, 5 % (10 % for group and layer norm, and after a stem that
    max-pools); without norm 15 % at 64 channels and 6 blocks, and worse with depth, for the scatter multiplies. One
    draw of a network with projections scatters by about 10 % a projection at 16 channels; so does its stem.

    Args:
        config: the network's choices.
        image_size: side of the images, or one size for each spatial dimension.
        stem: mean square and mean of the stem's output, numbers or maps over its positions. None computes them for
            images of independent N(0, 1) pixels; a maximum over windows has no closed form, so for stems that
            max-pool, and for other images, give what was measured (``measure_moments(...).stem``).
        train: normalize by batch statistics; else at the initial running averages, which change nothing.

    Raises:
        UsageError: no closed form is offered for the network; the message says for which part of it.

    >>> from resnet_jax.models import create_model
    >>> config = create_model("nf_resnet20_cifar").config
    >>> predict_moments(config, 32).variance.round(2).tolist()
    [1.0, 1.03, 1.07, 0.99, 1.03, 1.06, 0.95, 0.98, 1.01]
    """
    _check(config)
    x = _stem(config, image_size, train) if stem is None else _given_stem(config, image_size, stem)
    before, rows, stages = x.moments(), [], []
    for block in (block for stage in plan_stages(config) for block in stage):
        x = _block(config, block, x, train)
        rows.append(x.moments())
        stages.append(block.stage)
    values = np.array(rows)
    return Moments(before, values[:, 0], values[:, 1], np.array(stages))


def weight_variance(init: str, shape: Sequence[int]) -> float:
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


def _check(config: ResNetConfig) -> None:
    """Refuse what has no rule."""
    identity = config.shortcut not in ("C", "none")
    if not config.is_pre and identity and config.activation != "relu":
        raise UsageError(
            f"no closed form is offered for activation {config.activation} after the sum of an identity skip and a "
            "branch (order post): use order pre, activation relu, or shortcut C or none"
        )
    if config.shortcut == "D" and len(config.stage_sizes) > 1 and (config.is_pre or config.norm == "none"):
        raise UsageError(
            "no closed form is offered for shortcut D without a norm after its projection: the mean over "
            "neighbouring positions depends on how alike they are; use shortcut B"
        )
    if config.attention != "none" and config.norm == "none" and not config.is_nf and not _zero_branch(config):
        raise UsageError(
            f"no closed form is offered for attention {config.attention} on a branch without norm: its weights are "
            "1/2 at initialization only where the channels' means are 0"
        )


def _zero_branch(config: ResNetConfig) -> bool:
    return config.residual in _ZERO_BRANCH


# ---- network ----------------------------------------------------------------------------------------------------


def _stem(config: ResNetConfig, image_size: int | Sequence[int], train: bool) -> Signal:
    """Propagate images of independent N(0, 1) pixels through the stem."""
    if config.stem != "cifar" and config.stem_pool != "conv":
        raise UsageError(
            f"no closed form is offered for the maximum in stem {config.stem}: pass stem=(mean square, mean) as "
            "measured, e.g. measure_moments(...).stem, or use stem cifar or stem_pool conv"
        )
    x = _gaussian(config.in_channels, np.ones(_sizes(config, image_size)))
    widths = stem_widths(config)
    for index, width in enumerate(widths):
        strides = 2 if index == 0 and config.stem != "cifar" else 1
        x = _conv(config, x, width, 7 if config.stem == "imagenet" else 3, strides)
        if not (config.is_pre and index == len(widths) - 1):
            x = _activate(config, _norm(config, x, train))
    if config.stem_pool == "conv":
        x = _conv(config, x, x.total, 3, 2)
        x = x if config.is_pre else _activate(config, _norm(config, x, train))
    return x


def _given_stem(config: ResNetConfig, image_size: int | Sequence[int], stem: tuple[ArrayLike, ArrayLike]) -> Signal:
    """Take the stem's moments as they are given, for every channel alike."""
    halvings = 0 if config.stem == "cifar" else 2
    sizes = tuple(-(-size // 2**halvings) for size in _sizes(config, image_size))
    square, mean = (np.broadcast_to(np.asarray(value, np.float64), sizes)[None] for value in stem)
    shape = _rectified_normal(float(mean.mean() ** 2 / max(square.mean(), 1e-300)))
    return Signal(np.array([stem_widths(config)[-1]]), square, mean, shape[None])


def _sizes(config: ResNetConfig, image_size: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (image_size,) * config.spatial_dims if isinstance(image_size, int) else tuple(image_size)
    if len(sizes) != config.spatial_dims or min(sizes) < 1:
        raise UsageError(f"image_size {image_size} must give {config.spatial_dims} positive sizes (spatial_dims)")
    return sizes


def _block(config: ResNetConfig, block: BlockPlan, x: Signal, train: bool) -> Signal:
    """Propagate through one block."""
    seen = x
    if config.is_pre:
        seen = _activate(config, _norm(config, x, train))
        seen = _scale(seen, block.beta)
    branch = _branch(config, block, seen, train)
    if config.shortcut == "none":
        return branch if config.is_pre else _activate(config, branch)
    if config.shortcut == "C" or (block.changes_shape and config.shortcut in ("B", "D")):
        y = _projection(config, block, seen, train)
        return _add(y, branch) if config.is_pre else _activate(config, _add(y, branch))
    skip = _subsample_and_pad(x, block) if block.changes_shape else x
    if config.is_pre:
        return _add(skip, branch)
    return skip if _zero_branch(config) else _reflected_sum(skip, branch)


def _branch(config: ResNetConfig, block: BlockPlan, x: Signal, train: bool) -> Signal:
    """Propagate through a branch, the residual rule's factor included."""
    convs = branch_convs(config, block)
    for number, spec in enumerate(convs, start=1):
        if config.is_pre and number > 1:
            x = _activate(config, _norm(config, x, train))
        x = _conv(config, x, spec.features, spec.kernel_size, spec.strides, spec.groups)
        if not config.is_pre:
            x = _norm(config, x, train)
            x = x if number == len(convs) else _activate(config, x)
    if config.attention != "none" and not config.is_nf:
        x = _scale(x, 0.5)  # the sigmoid of nearly 0; the NF rules double it
    if _zero_branch(config):
        return _scale(x, 0.0)
    return _scale(x, config.alpha) if config.is_nf else x


def _projection(config: ResNetConfig, block: BlockPlan, seen: Signal, train: bool) -> Signal:
    """Propagate through a 1x1 projection; in post-activation order a norm follows."""
    y = _conv(config, seen, block.features, 1, block.strides)
    return y if config.is_pre else _norm(config, y, train)


# ---- layers -----------------------------------------------------------------------------------------------------


def _gaussian(channels: int, square: np.ndarray) -> Signal:
    """Build the signal of equal channels of mean 0."""
    return Signal(np.array([channels]), square[None], np.zeros_like(square)[None], _half_normal()[None])


def _scale(x: Signal, factor: float) -> Signal:
    return dataclasses.replace(x, square=x.square * factor**2, mean=x.mean * factor)


def _add(skip: Signal, branch: Signal) -> Signal:
    """Add a branch of mean 0, independent of the skip."""
    return dataclasses.replace(skip, square=skip.square + branch.square)


def _conv(config: ResNetConfig, x: Signal, features: int, kernel_size: int, strides: int, groups: int = 1) -> Signal:
    """Propagate through a convolution with fresh weights.

    With n the fan-in, weights that sum to 0 and have squares that sum to S see of an input of n numbers only its
    distance from its own mean: the expectation is S / (n - 1) times the sum of (x - mean)^2.
    """
    square, mean = x.over_channels(x.square), x.over_channels(x.mean)
    c_in = x.total // groups
    shape = (kernel_size,) * square.ndim + (c_in, features)
    variance = weight_variance(config.init, shape)
    total = c_in * _window_sum(square, kernel_size, strides)
    if config.standardizes == "none":
        return _gaussian(features, variance * total)
    fan_in = math.prod(shape[:-1])
    scatter = c_in * _window_sum(square - np.square(mean), kernel_size, strides)
    window_mean = c_in * _window_sum(mean, kernel_size, strides) / fan_in
    within = total - fan_in * np.square(window_mean) - scatter / fan_in
    squares = variance / (variance + config.ws_eps) * (1 if config.standardizes == "scaled" else fan_in)
    return _gaussian(features, squares * within / (fan_in - 1))


def _window_sum(values: np.ndarray, kernel_size: int, strides: int) -> np.ndarray:
    """Sum over windows centred on every ``strides``-th position, zeros outside."""
    reach = (kernel_size - 1) // 2
    for axis, size in enumerate(values.shape):
        border = np.zeros((values.ndim, 2), int)
        border[0] = reach
        lines = np.pad(np.moveaxis(values, axis, 0), border)
        shifted = [lines[offset : offset + size : strides] for offset in range(kernel_size)]
        values = np.moveaxis(np.sum(shifted, axis=0), 0, axis)
    return values


def _norm(config: ResNetConfig, x: Signal, train: bool) -> Signal:
    """Normalize to mean 0 and variance 1 over the positions; ``layer`` over all channels, the others by groups of them.

    Channels of group and instance norm are taken as those of batch norm, one example's moments as those of all.
    """
    if config.norm in ("none", "folded"):
        return x
    if config.norm == "batch" and (not train or config.norm_scope == "frozen"):
        return _scale(x, 1.0 / math.sqrt(1.0 + config.norm_eps))
    spatial = tuple(range(1, x.square.ndim))
    centre = x.mean.mean(axis=spatial, keepdims=True)
    square = x.square.mean(axis=spatial, keepdims=True)
    if config.norm == "layer":
        centre, square = x.over_channels(centre)[None], x.over_channels(square)[None]
    variance = square - np.square(centre) + config.norm_eps
    centred = x.square - 2.0 * x.mean * centre + np.square(centre)
    return dataclasses.replace(x, square=centred / variance, mean=(x.mean - centre) / np.sqrt(variance))


def _subsample_and_pad(x: Signal, block: BlockPlan) -> Signal:
    """Option A: every ``strides``-th position, and a group of channels of zeros."""
    take = (slice(None), *(slice(None, None, block.strides),) * (x.square.ndim - 1))
    square, mean = x.square[take], x.mean[take]
    new = block.features - x.total
    if new == 0:
        return dataclasses.replace(x, square=square, mean=mean)
    return Signal(
        np.append(x.channels, new),
        np.concatenate([square, np.zeros_like(square[:1])]),
        np.concatenate([mean, np.zeros_like(mean[:1])]),
        np.concatenate([x.shape, np.zeros_like(x.shape[:1])]),
    )


def _activate(config: ResNetConfig, x: Signal) -> Signal:
    """Activate Gaussian values, with the NF rules' gain."""
    square, mean = gaussian_moments(config.activation, x.square, x.mean)
    y = dataclasses.replace(x, square=square, mean=mean, shape=np.broadcast_to(_half_normal(), x.shape.shape))
    return _scale(y, GAINS[config.activation]) if config.is_nf else y


def gaussian_moments(activation: str, square: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return second moment and mean of ``f(z)`` for z Gaussian of the given second moment and mean, elementwise.

    ReLU and leaky ReLU by their closed forms, others by Gauss-Hermite quadrature.

    >>> [float(value.round(6)) for value in gaussian_moments("relu", np.array(2.0), np.array(0.0))]
    [1.0, 0.56419]
    """
    std = np.sqrt(np.maximum(square - np.square(mean), 0.0))
    if activation not in _NEGATIVE_SLOPES:
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        z = mean[..., None] + std[..., None] * nodes
        y = np.asarray(ACTIVATIONS[activation](jnp.asarray(z, jnp.float32)), np.float64)
        weights = weights / weights.sum()
        return np.square(y) @ weights, y @ weights
    slope = _NEGATIVE_SLOPES[activation]
    if not mean.any():
        return square * (1.0 + slope**2) / 2.0, std * (1.0 - slope) / math.sqrt(2.0 * math.pi)
    ratio = np.divide(mean, std, out=np.sign(mean) * 40.0, where=std > 0)
    above = 0.5 * (1.0 + _erf(ratio / math.sqrt(2.0)))
    density = np.exp(-0.5 * np.square(ratio)) / math.sqrt(2.0 * math.pi)
    positive, positive_mean = square * above + mean * std * density, mean * above + std * density
    return positive + slope**2 * (square - positive), positive_mean + slope * (mean - positive_mean)


_erf = np.vectorize(math.erf, otypes=[np.float64])


# ---- the random walk reflected at 0 -----------------------------------------------------------------------------


def _reflected_sum(skip: Signal, branch: Signal) -> Signal:
    """Return ``relu(skip + branch)`` for a skip that is not negative and a Gaussian branch.

    The distribution of the skip's values is carried as quantiles: with batch norm every block adds a standard normal
    step, and the outputs are a random walk reflected at 0 (Lindley's recursion).
    """
    squares, means, shapes = [], [], []
    for square, shape in zip(skip.square, skip.shape, strict=True):
        root, step = math.sqrt(square.mean()), math.sqrt(branch.square[0].mean())
        values = np.maximum(root * shape[:, None] + step * _normal(64)[None], 0.0).ravel()
        after = np.square(values).mean()
        # each quantile stands for the equal share of values around it, by their root mean square
        quantiles = np.sqrt(np.square(np.sort(values)).reshape(shape.size, -1).mean(axis=1) / after)
        squares.append((square + branch.square[0]) * after / (root**2 + step**2))
        means.append(np.sqrt(squares[-1]) * values.mean() / math.sqrt(after))
        shapes.append(quantiles)
    return Signal(skip.channels, np.stack(squares), np.stack(means), np.stack(shapes))


@functools.cache
def _normal(count: int) -> np.ndarray:
    """Return ``count`` equally probable values of a standard normal variable, with variance 1."""
    values = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)])
    return _normalized(values)


@functools.cache
def _half_normal() -> np.ndarray:
    """Return quantiles of relu(z), z standard normal, divided by their root mean square."""
    return _normalized(np.maximum(_normal(256), 0.0))


def _rectified_normal(ratio: float) -> np.ndarray:
    """Return such quantiles of relu(z + shift), with the shift at which squared mean over mean square is ``ratio``."""
    low, high = -2.5, 100.0  # at the lowest, 2 of the 256 quantiles are above 0
    for _ in range(50):
        shift = 0.5 * (low + high)
        below = _normalized(np.maximum(_normal(256) + shift, 0.0)).mean() ** 2 < ratio
        low, high = (shift, high) if below else (low, shift)
    return _normalized(np.maximum(_normal(256) + high, 0.0))


def _normalized(values: np.ndarray) -> np.ndarray:
    return values / np.sqrt(np.square(values).mean())
