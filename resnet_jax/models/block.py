"""Residual blocks and their shortcuts: ``y = act(shortcut(x) + branch(x))`` (He et al. 2016, eq. 1 and 2)."""

from __future__ import annotations

from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.models import layers
from resnet_jax.models.config import ACTIVATIONS, ResNetConfig


class Shortcut(nn.Module):
    """The skip path: the identity wherever the shapes agree, else option A, B or C of ``config.shortcut``."""

    config: ResNetConfig
    features: int
    strides: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *out f"]:
        """Return ``x`` in the shape the branch will have."""
        changes = self.strides != 1 or x.shape[-1] != self.features
        if self.config.shortcut == "C" or (changes and self.config.shortcut == "B"):
            x = layers.conv(self.config, self.features, 1, self.strides, name="conv")(x)
            return layers.norm(self.config, name="norm")(x, train=train)
        if changes:
            return ops.subsample_and_pad(x, stride=self.strides, features=self.features)
        return x


class BasicBranch(nn.Module):
    """Two 3x3 convolutions; the first one strides."""

    config: ResNetConfig
    width: int
    strides: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *out f"]:
        """Return F(x), before it meets the skip."""
        act = ACTIVATIONS[self.config.activation]
        x = layers.conv(self.config, self.width, 3, self.strides, name="conv1")(x)
        x = act(layers.norm(self.config, name="norm1")(x, train=train))
        x = layers.conv(self.config, self.width, 3, name="conv2")(x)
        return layers.norm(self.config, name="norm2", last_of_branch=True)(x, train=train)


class BottleneckBranch(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width; ``config.stride_in`` says which of the first two strides."""

    config: ResNetConfig
    width: int
    strides: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *out f"]:
        """Return F(x), before it meets the skip."""
        act = ACTIVATIONS[self.config.activation]
        first, second = (self.strides, 1) if self.config.stride_in == "1x1" else (1, self.strides)
        x = layers.conv(self.config, self.width, 1, first, name="conv1")(x)
        x = act(layers.norm(self.config, name="norm1")(x, train=train))
        x = layers.conv(self.config, self.width, 3, second, name="conv2")(x)
        x = act(layers.norm(self.config, name="norm2")(x, train=train))
        x = layers.conv(self.config, self.width * self.config.expansion, 1, name="conv3")(x)
        return layers.norm(self.config, name="norm3", last_of_branch=True)(x, train=train)


BRANCHES = {"basic": BasicBranch, "bottleneck": BottleneckBranch}


class Block(nn.Module):
    """One residual unit in the post-activation order (v1)."""

    config: ResNetConfig
    width: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *out f"]:
        """Return ``act(shortcut(x) + branch(x))``."""
        features = self.width * self.config.expansion
        skip = Shortcut(self.config, features, self.strides, name="shortcut")(x, train=train)
        branch = BRANCHES[self.config.block](self.config, self.width, self.strides, name="branch")(x, train=train)
        return ACTIVATIONS[self.config.activation](skip + branch)
