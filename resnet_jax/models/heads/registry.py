"""Heads by name: from a network's choices to a module that makes outputs of the backbone's maps.

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

#: Every head by name but ``classifier``. The module is called as ``(maps, size=spatial, train=...)``: maps as
#: :meth:`resnet_jax.models.ResNet.features` gives them, and the sides of the network's input. It returns one array or
#: a dict of arrays, all with examples along the first axis. It must be named ``head``, and its last layers
#: ``classifier`` (or ``classifier_...``), by which learning rates and fresh heads know them.
HEADS: Registry[HeadRule] = Registry("head", reserved=("classifier",))
#: Head of our own -> its module in this package, imported when it is asked for.
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
    """Return a decorator that makes a rule the head that ``ResNetConfig(head=name)`` has; see :data:`HEADS`.

    Raises:
        UsageError: the name is taken.
    """
    return HEADS.register(name)


def make_head(config: ResNetConfig) -> nn.Module:
    """Return the head of a network whose head is no classifier."""
    if (module := OURS.get(config.head)) is not None and config.head not in HEADS:
        importlib.import_module(f"resnet_jax.models.heads.{module}")
    return HEADS[config.head](config)
