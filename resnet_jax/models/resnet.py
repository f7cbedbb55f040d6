"""The network: stem, stages of residual blocks, pooled features, classifier."""

from __future__ import annotations

from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.models import layers
from resnet_jax.models.block import Block
from resnet_jax.models.config import ACTIVATIONS, ResNetConfig
from resnet_jax.models.init import initializer


class Stem(nn.Module):
    """From pixels to the width of the first stage."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *out f"]:
        """Return the first feature map: a quarter of the side with ``imagenet``, the full side with ``cifar``."""
        kernel_size, strides = (7, 2) if self.config.stem == "imagenet" else (3, 1)
        x = layers.conv(self.config, self.config.widths[0], kernel_size, strides, name="conv")(x)
        x = ACTIVATIONS[self.config.activation](layers.norm(self.config, name="norm")(x, train=train))
        if self.config.stem == "imagenet":
            x = ops.max_pool(x, window=3, stride=2, padding=1)
        return x


class Stage(nn.Module):
    """Residual blocks of one width and resolution; only the first may change the shape."""

    config: ResNetConfig
    size: int
    width: int
    strides: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *out f"]:
        """Return the output of the last block."""
        for index in range(self.size):
            strides = self.strides if index == 0 else 1
            x = Block(self.config, self.width, strides, name=f"block{index}")(x, train=train)
        return x


class ResNet(nn.Module):
    """A residual network as a pure function ``(variables, images) -> logits``.

    Variables are ``params`` and ``batch_stats``. Paths read ``stem/conv``, ``stage1/block0/branch/conv1``,
    ``stage2/block0/shortcut/conv``, ``head``: stages count from 1, blocks from 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = ResNet(ResNetConfig((1, 1), (8, 16), stem="cifar", num_classes=10))
        >>> variables = jax.jit(lambda k: model.init(k, jnp.zeros((1, 8, 8, 3)), train=False))(jax.random.key(0))
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> model.apply(variables, images, train=False).shape
        (2, 10)
        >>> logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        >>> sorted(updates)
        ['batch_stats']
    """

    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n k"]:
        """Return logits ``(N, num_classes)``, or pooled features ``(N, C)`` if ``num_classes`` is 0.

        Args:
            x: normalized images ``(N, *spatial, in_channels)``; any float dtype.
            train: use and move the batch statistics (then apply with ``mutable=['batch_stats']``).

        Raises:
            UsageError: the input's rank or channels are not the network's.
        """
        config = self.config
        if x.ndim not in (3, 4, 5):
            raise UsageError(f"expected images (N, *spatial, C), got shape {x.shape}: is the batch axis missing?")
        if x.shape[-1] != config.in_channels:
            raise UsageError(
                f"the network takes {config.in_channels} channels in the last axis, got shape {x.shape}; "
                f"pass in_channels={x.shape[-1]} to create_model, or move the channels last"
            )
        x = Stem(config, name="stem")(x.astype(config.dtype), train=train)
        for index, (size, width) in enumerate(zip(config.stage_sizes, config.widths, strict=True)):
            x = Stage(config, size, width, strides=1 if index == 0 else 2, name=f"stage{index + 1}")(x, train=train)
        features = ops.global_mean_pool(x)
        if config.num_classes == 0:
            return features
        return layers.Head(
            config.num_classes,
            initializer(config.head_init),
            dtype=config.head_dtype,
            param_dtype=config.param_dtype,
            name="head",
        )(features)
