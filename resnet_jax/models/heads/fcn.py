"""Head ``fcn``: outputs for every pixel from the last map alone."""

from __future__ import annotations

from collections.abc import Mapping

from flax import linen as nn
from jaxtyping import Array

from resnet_jax import ops
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.heads.parts import classify_positions, conv_norm
from resnet_jax.models.heads.registry import register_head


class FCNHead(nn.Module):
    """A 3x3 convolution to ``head_width`` channels, a 1x1 classifier and bilinear interpolation.

    This is Long et al. 2015 (arXiv 1411.4038) without skips, on a dilated network. torchvision's ``FCNHead`` is the
    same, with a width of a quarter of the last map's and ``head_dropout`` 0.1.
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
        config = self.config
        x = conv_norm(self, config, maps["final"], config.head_width, 3, name="last", train=train)
        return ops.resize_bilinear(classify_positions(config, x, train=train), size)


@register_head("fcn")
def fcn(config: ResNetConfig) -> nn.Module:
    """A fully convolutional network's head."""
    return FCNHead(config, name="head")
