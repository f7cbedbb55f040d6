"""Building blocks of heads: a convolution with norm and activation, and outputs at positions."""

from __future__ import annotations

from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.models import layers
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.dropout import Dropout
from resnet_jax.models.init import initializer


def conv_norm(
    module: nn.Module,
    config: ResNetConfig,
    x: Float[Array, "n *spatial c"],
    features: int,
    kernel_size: int,
    *,
    name: str,
    train: bool,
    strides: int = 1,
    dilation: int = 1,
    activated: bool = True,
) -> Float[Array, "n *out f"]:
    """Return ``x`` after a convolution, the network's norm and, by default, its activation.

    Args:
        module: the module whose call this runs in; it owns the layers.
        config: the network's choices.
        x: the input.
        features: output channels.
        kernel_size: side of the window.
        name: the layers are called ``{name}_conv`` and ``{name}_norm``.
        train: the mode of the norm.
        strides: stride.
        dilation: distance between the taps of the window.
        activated: whether to apply the activation.
    """
    finish = layers.Finish(relu=activated) if layers.finishes(module, config, train=train) else None
    conv = layers.conv(config, features, kernel_size, strides, dilation=dilation, name=f"{name}_conv", before_norm=True)
    x = conv(x, finish)
    if finish is not None:
        return x
    if activated:
        return layers.norm_and_activate(config, x, name=f"{name}_norm", train=train)
    return layers.norm(config, name=f"{name}_norm")(x, train=train)


def classify_positions(
    config: ResNetConfig, x: Float[Array, "n *spatial c"], *, train: bool, name: str = "classifier"
) -> Float[Array, "n *spatial k"]:
    """Return ``num_classes`` outputs at every position: the network's ``head_dropout`` and a 1x1 convolution.

    The outputs are float32 or wider, and the layer is initialized like a classifier.

    Args:
        config: the network's choices.
        x: the map.
        train: whether dropout is active.
        name: name of the layer.
    """
    x = Dropout(config.head_dropout, name=f"{name}_dropout")(x, deterministic=not train)
    layer = layers.Head(
        config.num_classes,
        initializer(config.head_kernel_init),
        dtype=config.head_dtype,
        param_dtype=config.param_dtype,
        scale=config.logit_scale,
        name=name,
    )
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], config.num_classes)
