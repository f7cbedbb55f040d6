"""Normalizations by name: the built-in ones and those that you register.

>>> @register_norm("rms")
... def rms(config, place):
...     return RMSNorm(name=place.name)  # a Linen module called as (x, train=...)
>>> _ = NORMS.pop("rms")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from resnet_jax.runtime.registry import Registry

if TYPE_CHECKING:
    from flax import linen as nn
    from jax.nn.initializers import Initializer

    from resnet_jax.models.config import ResNetConfig


@dataclasses.dataclass(frozen=True)
class NormPlace:
    """One of the places in a network where a normalization stands.

    Attributes:
        name: name of the module in the parameter tree.
        scale_init: initializer of its scale: ones, or zeros where the residual rule requires it.
        after_conv: whether it directly follows a convolution.
        relu: whether a ReLU follows, which the module then has to apply; only used for norm ``batch``.
    """

    name: str
    scale_init: Initializer
    after_conv: bool = True
    relu: bool = False


NormRule: TypeAlias = "Callable[[ResNetConfig, NormPlace], nn.Module]"

#: Every norm by name: a function from the network's choices and a place to a module called as ``(x, train=...)``, x (N,
#: *spatial, C). Its parameters must be called ``scale`` and ``bias``, the names that weight decay and learning rates
#: look for; running statistics belong in the collection ``batch_stats``.
NORMS: Registry[NormRule] = Registry("norm")


def register_norm(name: str) -> Callable[[NormRule], NormRule]:
    """Return a decorator that registers a rule as the norm of ``ResNetConfig(norm=name)``; see :data:`NORMS`.

    Raises:
        UsageError: the name is taken.
    """
    return NORMS.register(name)


@register_norm("batch")
def batch_norm(config: ResNetConfig, place: NormPlace) -> nn.Module:
    """Batch normalization, with the network's scope."""
    from resnet_jax.models.norm import BatchNorm

    return BatchNorm(
        momentum=config.norm_momentum,
        running_variance=config.norm_running_variance,
        eps=config.norm_eps,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        scale_init=place.scale_init,
        axis_name=config.axis_name,
        statistics=config.norm_scope,
        ghost_size=config.ghost_size,
        group_devices=config.norm_group_devices,
        devices=config.norm_devices,
        relu=place.relu,
        name=place.name,
    )


def _grouped(config: ResNetConfig, place: NormPlace, groups: int | None) -> nn.Module:
    from resnet_jax.models.norm import GroupNorm

    return GroupNorm(
        groups=groups,
        eps=config.norm_eps,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        scale_init=place.scale_init,
        name=place.name,
    )


@register_norm("group")
def group_norm(config: ResNetConfig, place: NormPlace) -> nn.Module:
    """Group normalization (Wu & He 2018, arXiv 1803.08494)."""
    return _grouped(config, place, config.norm_groups)


@register_norm("layer")
def layer_norm(config: ResNetConfig, place: NormPlace) -> nn.Module:
    """Layer normalization: one group of all channels, over all positions."""
    return _grouped(config, place, 1)


@register_norm("instance")
def instance_norm(config: ResNetConfig, place: NormPlace) -> nn.Module:
    """Instance normalization: one group per channel."""
    return _grouped(config, place, None)


@register_norm("none")
def no_norm(config: ResNetConfig, place: NormPlace) -> nn.Module:
    """No normalization at all."""
    from resnet_jax.models.norm import NoNorm

    return NoNorm(name=place.name)


@register_norm("folded")
def folded_norm(config: ResNetConfig, place: NormPlace) -> nn.Module:
    """What `weights fold` leaves of a batch norm: nothing after a convolution, otherwise a scale and a bias."""
    from resnet_jax.models.norm import Affine, NoNorm

    if place.after_conv:
        return NoNorm(name=place.name)
    return Affine(dtype=config.dtype, param_dtype=config.param_dtype, name=place.name)
