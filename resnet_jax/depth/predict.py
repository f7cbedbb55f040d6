"""Predict mean square and mean of every block's output at initialization, without running the network.

This is mean-field propagation: everything is an expectation over the random weights and over images whose pixels are
independent N(0, 1). Two maps over the positions are propagated from layer to layer, mean square ``q(p)`` and mean
``m(p)`` of an activation, so that zero padding is exact: near a border, a window sums fewer terms.

==========================  ==========================================================================================
layer                       rule
==========================  ==========================================================================================
convolution                 weights of mean 0 and variance s^2: ``q(p) -> s^2 c_in sum_window q``, ``m -> 0`` (He et
                            al. 2015, arXiv 1502.01852, eq. 10). Exact.
standardized convolution    weights of a unit sum to 0, their squares to a constant: ``q`` becomes the variance within
                            a window, padding included (Brock et al. 2021, arXiv 2101.08692, section 4.1)
activation                  second moment and mean of f(N(m, q - m^2)); for ReLU at m = 0: ``q / 2``, ``sqrt(q / 2 pi)``
norm                        divides by the mean over positions, ``q(p) -> q(p) / mean q``, ``m -> 0`` on average
skip + branch               the branch has mean 0 and is independent: ``q`` adds. A branch that starts at 0 adds nothing
``relu(skip + branch)``     no change if the branch is 0, because the skip is not negative. A projected skip is
                            Gaussian. Otherwise the skip is a random walk reflected at 0, whose distribution is tracked
==========================  ==========================================================================================

The rules leave out the scatter of a single draw of the weights, of relative size sqrt(5 / width) for each layer of a
ReLU network without norm and much less for the others, and how an image's own signal differs from the mean over images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from resnet_jax.depth import mean_field
from resnet_jax.depth.flow import ZERO_BRANCH, Flow, through_block
from resnet_jax.depth.mean_field import Signal
from resnet_jax.depth.measure import Moments
from resnet_jax.errors import UsageError
from resnet_jax.models.choices import CHOICES
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.plan import plan_stages, stem_widths


def predict_moments(
    config: ResNetConfig,
    image_size: int | Sequence[int],
    *,
    stem: tuple[ArrayLike, ArrayLike] | None = None,
    train: bool = True,
) -> Moments:
    """Return the moments of every block's output at initialization, as an expectation over the weights.

    Dropout and stochastic depth are taken as 0, as in :func:`~resnet_jax.depth.measure_moments`.

    How close a measurement comes (16 to 32 channels, 8 to 16 pixels, mean of 8 draws): zero branches with option A, 1 %
    of the stem's scale; with norm, or with the NF rules, 5 % (10 % for group and layer norm, and after a stem that
    max-pools); without norm, 15 % at 64 channels and 6 blocks, and worse with depth because the scatter multiplies. A
    single draw of a network with projections scatters by about 10 % per projection at 16 channels, and so does its
    stem.

    Args:
        config: the network's choices.
        image_size: side of the images, or one size for each spatial dimension.
        stem: mean square and mean of the stem's output, as numbers or maps over its positions. None computes them for
            images of independent N(0, 1) pixels. A maximum over windows has no closed form, so for stems that max-pool,
            and for other images, pass measured values (``measure_moments(...).stem``).
        train: normalize by batch statistics; otherwise by the initial running averages, which change nothing.

    Raises:
        UsageError: there is no closed form for the network; the message says for which part of it.

    >>> from resnet_jax.models import create_model
    >>> config = create_model("nf_resnet20_cifar").config
    >>> predict_moments(config, 32).variance.round(2).tolist()
    [1.0, 1.03, 1.07, 0.99, 1.03, 1.06, 0.95, 0.98, 1.01]
    """
    check_predictable(config)
    x = predict_stem(config, image_size, stem, train)
    before, rows, stages = x.moments(), [], []
    for block in (block for stage in plan_stages(config) for block in stage):
        x = through_block(config, block, Flow.start(x), train).signal
        rows.append(x.moments())
        stages.append(block.stage)
    values = np.array(rows)
    return Moments(before, values[:, 0], values[:, 1], np.array(stages))


def check_predictable(config: ResNetConfig) -> None:
    """Reject what has no rule."""
    identity = config.shortcut not in ("C", "none")
    for name, value in (("block", config.block), ("norm", config.norm)):
        if value not in CHOICES[name]:
            raise UsageError(f"no closed form is offered for {name} {value}, which was registered from outside")
    if config.init == "dirac":
        raise UsageError("no closed form is offered for init dirac, whose first filters pass their inputs on unchanged")
    if not config.is_pre and identity and config.activation != "relu":
        raise UsageError(
            f"no closed form is offered for activation {config.activation} after the sum of an identity skip and a "
            "branch (order post): use order pre, activation relu, or shortcut C or none"
        )
    if config.frontend != "none":
        raise UsageError(f"no closed form is offered for frontend {config.frontend}; use frontend none")
    if config.shortcut == "B_norm":
        raise UsageError("no closed form is offered for the norm on the skip of shortcut B_norm; use shortcut B")
    if config.transition == "conv_pool":
        raise UsageError(f"no closed form is offered for the maximum in transition {config.transition}")
    if config.shortcut == "D" and len(config.stage_sizes) > 1 and (config.is_pre or config.norm == "none"):
        raise UsageError(
            "no closed form is offered for shortcut D without a norm after its projection: the mean over "
            "neighbouring positions depends on how alike they are; use shortcut B"
        )
    if config.attention != "none" and config.norm == "none" and not config.is_nf and config.residual not in ZERO_BRANCH:
        raise UsageError(
            f"no closed form is offered for attention {config.attention} on a branch without norm: its weights are "
            "1/2 at initialization only where the channels' means are 0"
        )


def predict_stem(
    config: ResNetConfig, image_size: int | Sequence[int], stem: tuple[ArrayLike, ArrayLike] | None, train: bool
) -> Signal:
    """Return the input of the first block: ``stem`` if given, otherwise that for images of N(0, 1) pixels."""
    return _stem(config, image_size, train) if stem is None else _given_stem(config, image_size, stem)


def _stem(config: ResNetConfig, image_size: int | Sequence[int], train: bool) -> Signal:
    """Propagate images of independent N(0, 1) pixels through the stem."""
    if config.stem == "whiten":
        raise UsageError(
            "no closed form is offered for stem whiten, whose kernel is that of the data: pass stem=(mean square, "
            "mean) as measured, e.g. measure_moments(...).stem"
        )
    if config.stem not in ("cifar", "none") and config.stem_pool != "conv":
        raise UsageError(
            f"no closed form is offered for the maximum in stem {config.stem}: pass stem=(mean square, mean) as "
            "measured, e.g. measure_moments(...).stem, or use stem cifar or stem_pool conv"
        )
    x = mean_field.gaussian(config.in_channels, np.ones(_sizes(config, image_size)))
    if config.stem == "none":
        return x
    widths = stem_widths(config)
    for index, width in enumerate(widths):
        strides = 2 if index == 0 and config.stem != "cifar" else 1
        x = mean_field.conv(config, x, width, 7 if config.stem == "imagenet" else 3, strides)
        if not (config.is_pre and index == len(widths) - 1):
            x = mean_field.activate(config, mean_field.norm(config, x, train))
    if config.stem_pool == "conv":
        x = mean_field.conv(config, x, x.total, 3, 2)
        x = x if config.is_pre else mean_field.activate(config, mean_field.norm(config, x, train))
    return x


def _given_stem(config: ResNetConfig, image_size: int | Sequence[int], stem: tuple[ArrayLike, ArrayLike]) -> Signal:
    """Use the given moments of the stem, the same for every channel."""
    sizes = tuple(-(-size // config.stem_stride) for size in _sizes(config, image_size))
    square, mean = (np.broadcast_to(np.asarray(value, np.float64), sizes)[None] for value in stem)
    shape = mean_field.rectified_normal(float(mean.mean() ** 2 / max(square.mean(), 1e-300)))
    return Signal(np.array([stem_widths(config)[-1]]), square, mean, np.square(mean), shape[None])


def _sizes(config: ResNetConfig, image_size: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (image_size,) * config.spatial_dims if isinstance(image_size, int) else tuple(image_size)
    if len(sizes) != config.spatial_dims or min(sizes) < 1:
        raise UsageError(f"image_size {image_size} must give {config.spatial_dims} positive sizes (spatial_dims)")
    return sizes
