"""Predict the squared norm of the gradient at every block at initialization, without running the network.

These are expectations over the weights, assuming that gradients are independent of the weights they pass (Schoenholz et
al. 2017, arXiv 1611.01232; for residual networks Yang & Schoenholz 2017, arXiv 1712.08969).

==========================  ==========================================================================================
layer                       rule for the mean square of the gradient, from the layer's output to its input
==========================  ==========================================================================================
convolution                 weights of variance s^2: ``g(p) -> s^2 c_out sum_window g``, over the windows that contain p
                            (He et al. 2015, arXiv 1502.01852, eq. 14)
activation                  ``g E[f'(z)^2]``, z as in the forward pass; for ReLU at mean 0: ``g / 2``
norm                        divided by the variance; for batch and instance norm that is the mean square minus the mean
                            square of the channels' means: ``1 - 1 / pi`` of it after ReLU (Yang et al. 2019,
                            arXiv 1902.08129). Of M numbers normalized together, 2 directions are lost
skip + branch               the two gradients add, because the branch's weights have mean 0
``relu(skip + branch)``     passes nothing where it is negative. Along skips this is not independent from block to
                            block: the dependence of the gradient on the skip's value is tracked backward along the
                            reflected walk of the forward pass. Skips of zero branches lose half, once
==========================  ==========================================================================================
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from resnet_jax.depth.flow import Flow, through_block
from resnet_jax.depth.mean_field_backward import flat
from resnet_jax.depth.predict import check_predictable, predict_stem
from resnet_jax.errors import UsageError
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.plan import plan_stages


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Gradients through depth.

    Attributes:
        squared_norm: squared norm of the gradient with respect to the input of every block and the output of the last,
            relative to the last, ``(blocks + 1,)`` in depth order.
        stage: the stage of each block, from 0, ``(blocks,)``.
    """

    squared_norm: np.ndarray
    stage: np.ndarray


def predict_gradients(
    config: ResNetConfig,
    image_size: int | Sequence[int],
    *,
    stem: tuple[ArrayLike, ArrayLike] | None = None,
    train: bool = True,
    batch: int | None = None,
) -> Gradients:
    """Return how much of a random gradient at the last block's output reaches every block's input, at initialization.

    Arguments, and what is dropped, are those of :func:`~resnet_jax.depth.predict_moments`. The gradient starts as
    independent N(0, 1) numbers.

    Args:
        config: the network's choices.
        image_size: side of the images, or one size for each spatial dimension.
        stem: mean square and mean of the stem's output, required if it max-pools.
        train: normalize by batch statistics; otherwise by the initial running averages.
        batch: number of examples that a batch norm sees; None is a large number.

    Raises:
        UsageError: there is no closed form for the network; the message says for which part of it.

    >>> from resnet_jax.models import create_model
    >>> config = create_model("rezero_resnet20_cifar").config
    >>> predict_gradients(config, 32).squared_norm.tolist()
    [0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 1.0]
    """
    check_predictable(config)
    if config.shortcut == "D" and len(config.stage_sizes) > 1:
        raise UsageError(
            "no closed form is offered for gradients through shortcut D: what its mean over neighbouring positions "
            "loses depends on how alike they are; use shortcut B"
        )
    examples = config.ghost_size if config.norm_scope == "ghost" else batch
    x = predict_stem(config, image_size, stem, train)
    flows, stages = [], []
    for block in (block for stage in plan_stages(config) for block in stage):
        start = Flow.start(x, examples or math.inf)
        flows.append((x, through_block(config, block, start, train)))
        x = flows[-1][1].signal
        stages.append(block.stage)
    g = flat(np.array(1.0), x)
    norms = [g.total(x)]
    for before, flow in reversed(flows):
        g = flow.back(g)
        norms.append(g.total(before))
    return Gradients(np.array(norms[::-1]) / norms[0], np.array(stages))
