"""The layers every block is made of, with the network's choices already filled in."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.init import initializer
from resnet_jax.models.norm import BatchNorm


class Conv(nn.Module):
    """Convolution without bias over ``(N, *spatial, C)``, padded by ``(kernel_size - 1) // 2`` on both sides."""

    features: int
    kernel_size: int
    strides: int = 1
    groups: int = 1
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"]) -> Float[Array, "n *out f"]:
        """Return the convolution, of dtype ``dtype``."""
        dims = x.ndim - 2
        shape = (self.kernel_size,) * dims + (x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        return ops.conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=(self.strides,) * dims,
            padding=((self.kernel_size - 1) // 2,) * dims,
            groups=self.groups,
        )


class Head(nn.Module):
    """The classifier: a linear layer in float32 or wider."""

    features: int
    kernel_init: Initializer
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n c"]) -> Float[Array, "n k"]:
        """Return the logits."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)[None]


def conv(config: ResNetConfig, features: int, kernel_size: int, strides: int = 1, *, name: str) -> Conv:
    """Build the network's convolution called ``name``."""
    return Conv(
        features,
        kernel_size,
        strides,
        kernel_init=initializer(config.init),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )


def norm(config: ResNetConfig, *, name: str, last_of_branch: bool = False) -> BatchNorm:
    """Build the network's normalization called ``name``; the residual rule may want the branch's last one at 0."""
    zero = last_of_branch and config.residual == "zero_gamma"
    return BatchNorm(
        momentum=config.norm_momentum,
        eps=config.norm_eps,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        scale_init=nn.initializers.zeros if zero else nn.initializers.ones,
        axis_name=config.axis_name,
        name=name,
    )
