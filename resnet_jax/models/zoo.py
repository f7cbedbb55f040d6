"""Looking up named networks."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from typing import TYPE_CHECKING, Unpack

from resnet_jax.errors import unknown
from resnet_jax.models.choices import ModelChoices
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.rows import MODELS

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet


def named_config(name: str, **choices: Unpack[ModelChoices]) -> ResNetConfig:
    """Return the choices of the network called ``name``, with the given changes; see :func:`create_model`."""
    named = MODELS[name].config
    fields = [field.name for field in dataclasses.fields(ResNetConfig)]
    for choice in choices:
        if choice not in fields:
            raise unknown(f"choice for {name}", choice, fields, "resnet_jax.models.ResNetConfig")
    return dataclasses.replace(named, **choices)


def create_model(name: str, **choices: Unpack[ModelChoices]) -> ResNet:
    """Build the network called ``name``, with the given changes to its choices.

    Args:
        name: a name of :func:`list_models`.
        **choices: fields of :class:`ResNetConfig`, e.g. ``num_classes=10, shortcut="B", dtype="bfloat16"``.

    Raises:
        UsageError: unknown name, choice or value; the message suggests the nearest one.

    >>> create_model("resnet20_cifar", in_channels=1).config.stage_sizes
    (3, 3, 3)
    """
    from resnet_jax.models.resnet import ResNet

    return ResNet(named_config(name, **choices))


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that match a shell-style ``pattern``, in natural order.

    >>> list_models("resnet*_v1")
    ['resnet50_v1', 'resnet101_v1', 'resnet152_v1']
    """
    return sorted(fnmatch.filter(MODELS, pattern), key=natural_key)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``block2`` before ``block10``."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
