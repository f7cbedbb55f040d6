"""A feature pyramid: maps of several strides and one width, each combined with information from the deeper ones.

Lin et al. 2017, *Feature Pyramid Networks for Object Detection* (arXiv 1612.03144, section 3): every stage's map passes
through a 1x1 convolution; from the deepest on, each result is upsampled to the next finer resolution and added there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from flax import linen as nn
from jaxtyping import Array

from resnet_jax import ops
from resnet_jax.models import layers, paths
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.heads.parts import conv_norm


class _Activated(nn.Module):
    """The maps of a pre-activation network, which are bare sums, after a norm and the activation."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Array, number: int, *, train: bool) -> Array:
        return layers.norm_and_activate(self.config, x, name=f"norm{number}", train=train, after_conv=False)


class Pyramid(nn.Module):
    """Maps of the stages, projected to ``config.head_width`` channels, from the finest to the coarsest.

    Each convolution is followed by the network's norm, without an activation (as in torchvision's second version; the
    paper has no norm). Networks without normalization have none here either. Any number of spatial dimensions is
    supported.

    Attributes:
        config: the network's choices.
        first: the first stage whose map is used, counted from 1: 1 for maps from the finest on, 2 for strides from 8 on
            in networks whose stem pools.
        extra: number of maps beyond the last stage's. Each is a 3x3 convolution of stride 2 of the one before (with an
            activation before all but the first). RetinaNet and FCOS have 2, P6 and P7.
        smooth: whether a 3x3 convolution follows each sum, as in the paper.
        upsample: how to reach the finer resolution: nearest, as in the paper, or bilinear.
    """

    config: ResNetConfig
    first: int = 1
    extra: int = 0
    smooth: bool = True
    upsample: Literal["nearest", "bilinear"] = "nearest"

    @nn.compact
    def __call__(self, maps: Mapping[str, Array], *, train: bool) -> tuple[Array, ...]:
        """Return the pyramid, finest map first: one map for each stage from ``first`` on, then ``extra`` more.

        Args:
            maps: the result of :meth:`resnet_jax.models.ResNet.features`.
            train: the mode of the norms.
        """
        config, stages = self.config, len(self.config.stage_sizes)
        activated = _Activated(config, name="preact") if config.is_pre else None
        levels: list[Array] = []
        for number in range(stages, self.first - 1, -1):
            if number == stages:
                x = maps["final"]
            else:
                x = maps[paths.stage_name(number - 1)]
                x = x if activated is None else activated(x, number, train=train)
            x = self._conv(x, 1, f"lateral{number}", train)
            levels.insert(0, x if not levels else x + self._brought_to(levels[0], x.shape[1:-1]))
        if self.smooth:
            levels = [self._conv(x, 3, f"smooth{at}", train) for at, x in enumerate(levels, start=self.first)]
        for more in range(1, self.extra + 1):
            x = levels[-1] if more == 1 else layers.activate(config, levels[-1])
            levels.append(self._conv(x, 3, f"extra{more}", train, strides=2))
        return tuple(levels)

    def _conv(self, x: Array, kernel_size: int, name: str, train: bool, *, strides: int = 1) -> Array:
        config = self.config
        return conv_norm(
            self, config, x, config.head_width, kernel_size, name=name, train=train, strides=strides, activated=False
        )

    def _brought_to(self, x: Array, sides: tuple[int, ...]) -> Array:
        if self.upsample == "nearest":
            return ops.double_nearest(x, sides)
        return ops.resize_bilinear(x, sides)
