"""Channel attention: a weight between 0 and 1 for every channel of every example."""

from __future__ import annotations

import math

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.init import initializer


class Dense(nn.Module):
    """A linear layer over the last axis."""

    config: ResNetConfig
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n c"]) -> Float[Array, "n f"]:
        """Return ``x @ kernel + bias``."""
        config = self.config
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", initializer("torch_uniform"), shape, config.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), config.param_dtype)
        return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)[None]


class SqueezeExcite(nn.Module):
    """Pool, linear, ReLU, linear, sigmoid (Hu et al. 2018, arXiv 1709.01507, eq. 3)."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"]) -> Float[Array, "n *spatial c"]:
        """Return ``x`` with each channel weighted."""
        channels = x.shape[-1]
        hidden = hidden_channels(channels, self.config.se_ratio, self.config.se_divisor)
        weights = ops.global_mean_pool(x).astype(self.config.dtype)
        weights = jax.nn.relu(Dense(self.config, hidden, name="reduce")(weights))
        weights = jax.nn.sigmoid(Dense(self.config, channels, name="expand")(weights))
        return x * weights.reshape(x.shape[0], *(1,) * (x.ndim - 2), channels)


class EfficientChannelAttention(nn.Module):
    """Pool, convolution across channels, sigmoid (Wang et al. 2020, arXiv 1910.03151, eq. 8 and 12)."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"]) -> Float[Array, "n *spatial c"]:
        """Return ``x`` with each channel weighted."""
        channels = x.shape[-1]
        pooled = ops.global_mean_pool(x).astype(self.config.dtype)[..., None]
        weights = ChannelConv(self.config, eca_kernel_size(channels), name="conv")(pooled)
        return x * jax.nn.sigmoid(weights).reshape(x.shape[0], *(1,) * (x.ndim - 2), channels)


class ChannelConv(nn.Module):
    """One-dimensional convolution across channels, with one filter and no bias."""

    config: ResNetConfig
    kernel_size: int

    @nn.compact
    def __call__(self, x: Float[Array, "n c 1"]) -> Float[Array, "n c 1"]:
        """Return the convolution."""
        shape = (self.kernel_size, 1, 1)
        kernel = self.param("kernel", initializer("torch_uniform"), shape, self.config.param_dtype)
        return ops.conv(x, kernel.astype(x.dtype), strides=(1,), padding=((self.kernel_size - 1) // 2,))


def hidden_channels(channels: int, ratio: float, divisor: int) -> int:
    """Return ``channels * ratio`` rounded to the nearest multiple of ``divisor``, but at least ``divisor``.

    >>> hidden_channels(64, 1 / 16, 8), hidden_channels(64, 1 / 16, 1)
    (8, 4)
    """
    return max(divisor, int(channels * ratio + divisor / 2) // divisor * divisor)


def eca_kernel_size(channels: int) -> int:
    """Return (log2(C) + 1) / 2 rounded down, plus 1 if that is even, but at least 3.

    The authors' code and timm read "the nearest odd number" of eq. 12 this way; the minimum comes from timm.

    >>> [eca_kernel_size(channels) for channels in (64, 256, 512, 1024, 2048)]
    [3, 5, 5, 5, 7]
    """
    size = int(abs((math.log2(channels) + 1) / 2))
    return max(size if size % 2 else size + 1, 3)
