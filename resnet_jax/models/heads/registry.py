"""Heads by name: functions from a network's choices to a module that turns the backbone's maps into outputs.

>>> @register_head("brightest")
... def brightest(config):
...     return Brightest(name="head")  # a Linen module called as (maps, size=(H, W), train=...)
>>> _ = HEADS.pop("brightest")
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from resnet_jax.runtime.registry import Registry

if TYPE_CHECKING:
    from flax import linen as nn

    from resnet_jax.models.config import ResNetConfig

HeadRule: TypeAlias = "Callable[[ResNetConfig], nn.Module]"

#: Every head by name except ``classifier``. The module is called as ``(maps, size=spatial, train=...)``, with maps as
#: :meth:`resnet_jax.models.ResNet.features` returns them and the sides of the network's input. It returns one array or
#: a dict of arrays, all with examples along the first axis. It must be named ``head``, and its last layers
#: ``classifier`` (or ``classifier_...``), the names that learning rates and fresh heads look for.
HEADS: Registry[HeadRule] = Registry("head", reserved=("classifier",))
#: Built-in heads -> the module of this package that is imported on first use.
OURS: dict[str, str] = {
    "fcn": "fcn",
    "aspp": "aspp",
    "fpn": "fpn",
    "several": "several",
    "several_uncertain": "several",
    "fcos": "fcos",
    "retinanet": "retinanet",
}


def register_head(name: str) -> Callable[[HeadRule], HeadRule]:
    """Return a decorator that registers a rule as the head of ``ResNetConfig(head=name)``; see :data:`HEADS`.

    Raises:
        UsageError: the name is taken.
    """
    return HEADS.register(name)


def make_head(config: ResNetConfig) -> nn.Module:
    """Return the head of a network whose head is not the classifier."""
    if (module := OURS.get(config.head)) is not None and config.head not in HEADS:
        importlib.import_module(f"resnet_jax.models.heads.{module}")
    return HEADS[config.head](config)
