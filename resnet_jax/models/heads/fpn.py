"""Head ``fpn``: outputs for every pixel from the sum of the levels of a feature pyramid."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping

from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.heads.parts import classify_positions, conv_norm
from resnet_jax.models.heads.pyramid import Pyramid
from resnet_jax.models.heads.registry import register_head


class FPNHead(nn.Module):
    """A pyramid of all stages, a 3x3 convolution on each level, their sum at the finest resolution and a 1x1
    classifier.

    This is the semantic branch of Panoptic FPN (Kirillov et al. 2019, arXiv 1901.02446, fig. 3) with two
    simplifications: one convolution per level instead of one per doubling, which costs little at coarse levels, and
    laterals without 3x3 convolutions after them, as in SwiftNet (Orsic et al. 2019, arXiv 1903.08469). All widths are
    ``head_width``.
    """

    config: ResNetConfig

    @nn.compact
    def __call__(self, maps: Mapping[str, Array], *, size: tuple[int, ...], train: bool) -> Array:
        """Return outputs for every pixel, ``(N, *size, num_classes)``.

        Args:
            maps: the result of :meth:`resnet_jax.models.ResNet.features`.
            size: sides of the input.
            train: the mode of norms and dropout.
        """
        x = sum_of_levels(self, self.config, maps, train=train)
        return ops.resize_bilinear(classify_positions(self.config, x, train=train), size)


def sum_of_levels(
    module: nn.Module, config: ResNetConfig, maps: Mapping[str, Array], *, train: bool
) -> Float[Array, "n *spatial c"]:
    """Return one map at the resolution of the finest stage, ``head_width`` wide, that combines all stages.

    Args:
        module: the module whose call this runs in; it owns the layers, which are ``pyramid`` and ``level1_conv`` to the
            last stage's.
        config: the network's choices.
        maps: the result of :meth:`resnet_jax.models.ResNet.features`.
        train: the mode of the norms.
    """
    levels = Pyramid(config, smooth=False, upsample="bilinear", name="pyramid")(maps, train=train)
    finest = levels[0].shape[1:-1]
    parts = [
        ops.resize_bilinear(
            conv_norm(module, config, level, config.head_width, 3, name=f"level{at}", train=train), finest
        )
        for at, level in enumerate(levels, start=1)
    ]
    return functools.reduce(operator.add, parts)


@register_head("fpn")
def fpn(config: ResNetConfig) -> nn.Module:
    """Panoptic FPN's semantic branch, simplified."""
    return FPNHead(config, name="head")
