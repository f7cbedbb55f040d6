"""Named networks as rows of data, and the two functions that look them up."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from typing import Any

from resnet_jax.errors import unknown
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class Row:
    """One named network: its choices, the image side its counts refer to, and where it was published."""

    config: ResNetConfig
    image_size: int
    source: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image, ``(H, W, C)``."""
        return (self.image_size, self.image_size, self.config.in_channels)


def _imagenet() -> dict[str, Row]:
    """He et al. 2016 (arXiv 1512.03385), table 1; 200 from He et al. 2016 (arXiv 1603.05027)."""
    sizes = {
        18: ("basic", (2, 2, 2, 2)),
        34: ("basic", (3, 4, 6, 3)),
        50: ("bottleneck", (3, 4, 6, 3)),
        101: ("bottleneck", (3, 4, 23, 3)),
        152: ("bottleneck", (3, 8, 36, 3)),
        200: ("bottleneck", (3, 24, 36, 3)),
    }
    rows = {}
    for depth, (block, stage_sizes) in sizes.items():
        config = ResNetConfig(stage_sizes, block=block)
        rows[f"resnet{depth}"] = Row(config, 224, "arXiv 1512.03385, table 1; stride in the 3x3 (v1.5)")
        if depth in (50, 101, 152):
            original = dataclasses.replace(config, stride_in="1x1")
            rows[f"resnet{depth}_v1"] = Row(original, 224, "arXiv 1512.03385, table 1; stride in the first 1x1")
    return rows


def _cifar() -> dict[str, Row]:
    """He et al. 2016 (arXiv 1512.03385), section 4.2: 6n + 2 layers, 16-32-64 channels."""
    rows = {}
    for depth in (20, 32, 44, 56, 110, 1202):
        n = (depth - 2) // 6
        config = ResNetConfig((n, n, n), (16, 32, 64), stem="cifar", shortcut="A", num_classes=10)
        rows[f"resnet{depth}_cifar"] = Row(config, 32, "arXiv 1512.03385, section 4.2; option A")
        projected = dataclasses.replace(config, shortcut="B")
        rows[f"resnet{depth}_cifar_b"] = Row(projected, 32, "arXiv 1512.03385, section 4.2; option B")
    return rows


MODELS: dict[str, Row] = {**_imagenet(), **_cifar()}


def create_model(name: str, **choices: Any) -> ResNet:
    """Build the network called ``name``, with any of its choices changed.

    Args:
        name: a name of :func:`list_models`.
        **choices: fields of :class:`ResNetConfig`, e.g. ``num_classes=10, shortcut="B", dtype="bfloat16"``.

    Raises:
        UsageError: unknown name, choice or value; it names the nearest one.

    >>> create_model("resnet20_cifar", in_channels=1).config.stage_sizes
    (3, 3, 3)
    """
    if name not in MODELS:
        raise unknown("model", name, list_models())
    fields = [field.name for field in dataclasses.fields(ResNetConfig)]
    for choice in choices:
        if choice not in fields:
            raise unknown(f"choice for {name}", choice, fields)
    return ResNet(dataclasses.replace(MODELS[name].config, **choices))


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
