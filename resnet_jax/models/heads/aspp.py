"""Head ``aspp``: the atrous spatial pyramid pooling of DeepLabV3, with outputs for every pixel from the last map."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from resnet_jax import ops
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.heads.parts import classify_positions, conv_norm
from resnet_jax.models.heads.registry import register_head

#: Dilations of the three 3x3 convolutions by the stride of the last map (Chen et al. 2017, section 3.3; the values for
#: 32 extrapolate the paper's). Finer maps use those of 8.
RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}


class ASPPHead(nn.Module):
    """Five views of the last map, followed by a 1x1 convolution, a 3x3 convolution and a 1x1 classifier.

    The views are a 1x1 convolution, three dilated 3x3 convolutions, and the mean over all positions with a 1x1
    convolution. All are ``head_width`` wide (256 in the paper). Chen et al. 2017, *Rethinking Atrous Convolution*
    (arXiv 1706.05587, section 3.3), with torchvision's 3x3 convolution before the classifier.
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
        config, x = self.config, maps["final"]
        stride = config.own_stride if config.output_stride is None else config.output_stride
        width = config.head_width
        views = [conv_norm(self, config, x, width, 1, name="point", train=train)]
        for number, rate in enumerate(RATES.get(stride, RATES[8] if stride < 8 else RATES[32]), start=1):
            views.append(conv_norm(self, config, x, width, 3, name=f"atrous{number}", train=train, dilation=rate))
        mean = ops.global_mean_pool(x).astype(x.dtype).reshape(x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
        mean = conv_norm(self, config, mean, width, 1, name="pooled", train=train)
        views.append(jnp.broadcast_to(mean, views[0].shape))
        x = conv_norm(self, config, jnp.concatenate(views, -1), width, 1, name="project", train=train)
        x = conv_norm(self, config, x, width, 3, name="last", train=train)
        return ops.resize_bilinear(classify_positions(config, x, train=train), size)


@register_head("aspp")
def aspp(config: ResNetConfig) -> nn.Module:
    """DeepLabV3's head."""
    return ASPPHead(config, name="head")
