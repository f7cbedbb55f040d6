"""The named networks: each classic is a row of data with its choices and its source.

Register a network of your own in the same way:

>>> @register_model("resnet8_mine", image_size=32, source="my notebook")
... def resnet8_mine() -> ResNetConfig:
...     return ResNetConfig((1, 1, 1), (16, 32, 64), stem="cifar", num_classes=10)
>>> MODELS.pop("resnet8_mine").config.num_blocks
3
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from resnet_jax.models.config import ResNetConfig
from resnet_jax.runtime.registry import Registry


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """A named network: its choices, the image side that its counts refer to, and its source."""

    config: ResNetConfig
    image_size: int
    source: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, ``(*spatial, C)``."""
        return (self.image_size,) * self.config.spatial_dims + (self.config.in_channels,)


#: Every named network.
MODELS: Registry[NamedModel] = Registry("model", listing="`resnet-jax models`")


def register_model(
    name: str, *, image_size: int, source: str
) -> Callable[[Callable[[], ResNetConfig]], Callable[[], ResNetConfig]]:
    """Return a decorator that registers a function, which takes no arguments and returns the choices, as a named
    network.

    Args:
        name: name for :func:`resnet_jax.create_model`, recipes and the command line.
        image_size: side of its images in pixels, for counts and examples.
        source: where it was published.

    Raises:
        UsageError: the name is taken.
    """

    def add(build: Callable[[], ResNetConfig]) -> Callable[[], ResNetConfig]:
        MODELS[name] = NamedModel(build(), image_size, source)
        return build

    return add


def _family(build: Callable[[], dict[str, NamedModel]]) -> Callable[[], dict[str, NamedModel]]:
    """Register all networks of a family."""
    for name, row in build().items():
        MODELS[name] = row
    return build


#: Blocks per stage by depth: basic blocks for 18 and 34, bottlenecks for the others (arXiv 1512.03385, table 1).
STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def _imagenet(depth: int, source: str, image_size: int = 224, **choices: Any) -> NamedModel:
    block = "basic" if depth in (18, 34) else "bottleneck"
    return NamedModel(ResNetConfig(STAGES[depth], **{"block": block, **choices}), image_size, source)


def _cifar(
    depth: int, source: str, *, per_block: int = 2, widths: tuple[int, ...] = (16, 32, 64), **choices
) -> NamedModel:
    """A network of (3 per_block) n + 2 layers: three stages of n blocks on 32 x 32 pixels."""
    n, rest = divmod(depth - 2, 3 * per_block)
    assert rest == 0, depth
    given = {"stem": "cifar", "shortcut": "A", "norm_groups": 8, "num_classes": 10, **choices}
    block = "bottleneck" if per_block == 3 else "basic"
    return NamedModel(ResNetConfig((n, n, n), widths, block=block, **given), 32, source)


@_family
def _v1() -> dict[str, NamedModel]:
    paper = "arXiv 1512.03385, table 1"
    rows = {}
    for depth in (18, 34, 50, 101, 152, 200):
        rows[f"resnet{depth}"] = _imagenet(depth, f"{paper}; stride in the 3x3 (v1.5)")
        if depth in (50, 101, 152):
            rows[f"resnet{depth}_v1"] = _imagenet(depth, f"{paper}; stride in the first 1x1", stride_in="1x1")
    rows["resnet26"] = _imagenet(26, "timm: bottlenecks 2-2-2-2")
    return rows


@_family
def _plain() -> dict[str, NamedModel]:
    paper = "arXiv 1512.03385, table 1 and section 4.2; no skips"
    rows = {f"plain{depth}": _imagenet(depth, paper, shortcut="none") for depth in (18, 34)}
    for depth in (20, 32, 44, 56, 110):
        rows[f"plain{depth}_cifar"] = _cifar(depth, paper, shortcut="none")
    return rows


@_family
def _deep_stem() -> dict[str, NamedModel]:
    paper = "arXiv 1812.01187, fig. 2 (ResNet-D)"
    rows = {
        f"resnet{depth}d": _imagenet(depth, paper, stem="deep", shortcut="D")
        for depth in (18, 34, 26, 50, 101, 152, 200)
    }
    for depth in (26, 50):
        rows[f"resnet{depth}t"] = _imagenet(depth, "timm: tiered stem 24-32-64", stem="deep_tiered", shortcut="D")
    rows["resnet50c"] = _imagenet(50, "arXiv 1812.01187, fig. 2 (ResNet-C)", stem="deep")
    rows["resnet50s"] = _imagenet(50, "timm: stem 64-64-128", stem="deep_wide")
    return rows


@_family
def _wide_and_grouped() -> dict[str, NamedModel]:
    rows = {}
    for depth, groups, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4), (101, 32, 16)):
        rows[f"resnext{depth}_{groups}x{width}d"] = _imagenet(
            depth, "arXiv 1611.05431, table 1", groups=groups, base_width=width
        )
    rows["resnext50d_32x4d"] = _imagenet(
        50, "ResNeXt with the stem and shortcut of ResNet-D", groups=32, base_width=4, stem="deep", shortcut="D"
    )
    for depth in (50, 101):
        rows[f"wide_resnet{depth}_2"] = _imagenet(depth, "arXiv 1605.07146; inner 3x3 twice as wide", base_width=128)
    return rows


@_family
def _attention() -> dict[str, NamedModel]:
    squeeze, efficient = "arXiv 1709.01507; ratio 16, rounded to 8", "arXiv 1910.03151"
    rows = {f"seresnet{depth}": _imagenet(depth, squeeze, attention="se") for depth in (18, 34, 50, 101, 152)}
    for depth, groups, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8)):
        rows[f"seresnext{depth}_{groups}x{width}d"] = _imagenet(
            depth, squeeze, attention="se", groups=groups, base_width=width
        )
    rows["ecaresnet50"] = _imagenet(50, efficient, attention="eca")
    for depth in (26, 50):
        rows[f"ecaresnet{depth}t"] = _imagenet(
            depth, f"{efficient}; tiered stem", attention="eca", stem="deep_tiered", shortcut="D"
        )
    for depth in (50, 101):
        rows[f"ecaresnet{depth}d"] = _imagenet(
            depth, f"{efficient}; with ResNet-D", attention="eca", stem="deep", shortcut="D"
        )
    return rows


@_family
def _rs() -> dict[str, NamedModel]:
    sizes = {
        50: ((3, 4, 6, 3), 160),
        101: ((3, 4, 23, 3), 192),
        152: ((3, 8, 36, 3), 256),
        200: ((3, 24, 36, 3), 256),
        270: ((4, 29, 53, 4), 256),
        350: ((4, 36, 72, 4), 288),
        420: ((4, 44, 87, 4), 320),
    }
    choices = {"stem": "deep", "stem_pool": "conv", "shortcut": "D", "attention": "se", "se_ratio": 0.25}
    return {
        f"resnetrs{depth}": NamedModel(
            ResNetConfig(stages, block="bottleneck", **choices),
            224,
            f"arXiv 2103.07579, table 7; there at {size} pixels",
        )
        for depth, (stages, size) in sizes.items()
    }


@_family
def _v2() -> dict[str, NamedModel]:
    paper = "arXiv 1603.05027; stride in the 3x3"
    rows = {f"resnetv2_{depth}": _imagenet(depth, paper, order="pre") for depth in (18, 34, 50, 101, 152, 200)}
    for depth in (18, 34, 50):
        rows[f"resnetv2_{depth}d"] = _imagenet(depth, f"{paper}; with ResNet-D", order="pre", stem="deep", shortcut="D")
    rows["resnetv2_50t"] = _imagenet(50, f"{paper}; tiered stem", order="pre", stem="deep_tiered", shortcut="D")
    return rows


@_family
def _bit() -> dict[str, NamedModel]:
    choices = {
        "order": "pre", "norm": "group", "weight_standardization": "standard", "ws_eps": 1e-10,
        "stem_pool": "zero_max", "head_init": "zeros",
    }  # fmt: skip
    return {
        f"bit_r{depth}x{factor}": _imagenet(
            depth,
            "arXiv 1912.11370 (Big Transfer)",
            widths=tuple(width * factor for width in (64, 128, 256, 512)),
            **choices,
        )
        for depth, factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
    }


@_family
def _norm_free() -> dict[str, NamedModel]:
    rows = {}
    for depth in (26, 50, 101):
        nf: Any = {"residual": "nf", "norm": "none"}
        rows[f"nf_resnet{depth}"] = _imagenet(depth, "arXiv 2101.08692, without skip gains", **nf)
        rows[f"nf_seresnet{depth}"] = _imagenet(depth, "arXiv 2101.08692; SE ratio 16", attention="se", **nf)
        rows[f"nf_resnet{depth}_timm"] = _imagenet(
            depth, "timm's nf_resnet: shortcut D, another epsilon", shortcut="D", ws_eps=1e-5, **nf
        )
    rows["nf_ecaresnet50"] = _imagenet(50, "arXiv 2101.08692 with ECA", attention="eca", residual="nf", norm="none")
    rows["nf_gain_resnet50"] = _imagenet(50, "arXiv 2101.08692 with skip gains", residual="nf_gain", norm="none")
    for depth in (18, 34, 50, 101, 152):
        rows[f"fixup_resnet{depth}"] = _imagenet(depth, "arXiv 1901.09321", residual="fixup", norm="none")
    for depth in (18, 50):
        rows[f"skipinit_resnet{depth}"] = _imagenet(
            depth, "arXiv 2002.10444; pre-activation", residual="skipinit", norm="none", order="pre"
        )
        rows[f"rezero_resnet{depth}"] = _imagenet(depth, "arXiv 2003.04887", residual="rezero", norm="none")
    return rows


@_family
def _cifar_v1() -> dict[str, NamedModel]:
    rows = {}
    for depth in (20, 32, 44, 56, 110, 1202):
        rows[f"resnet{depth}_cifar"] = _cifar(depth, "arXiv 1512.03385, section 4.2; option A")
        rows[f"resnet{depth}_cifar_b"] = _cifar(depth, "arXiv 1512.03385, section 4.2; option B", shortcut="B")
    for depth in (164, 1001):
        rows[f"resnet{depth}_cifar"] = _cifar(
            depth, "arXiv 1603.05027, table 2; v1 bottleneck", per_block=3, shortcut="B"
        )
    return rows


@_family
def _cifar_v2() -> dict[str, NamedModel]:
    paper, rows = "arXiv 1603.05027, table 3", {}
    for depth in (20, 56, 110, 1202):
        rows[f"preact{depth}_cifar"] = _cifar(depth, paper, order="pre", shortcut="B")
    for depth in (164, 1001):
        rows[f"preact{depth}_cifar"] = _cifar(
            depth, f"{paper}; bottleneck", per_block=3, order="pre", shortcut="B", stride_in="1x1"
        )
    return rows


@_family
def _cifar_wide() -> dict[str, NamedModel]:
    rows = {}
    for depth, k in ((10, 1), (16, 1), (16, 2), (16, 4), (16, 8), (28, 2), (28, 10), (40, 1), (40, 2), (40, 4)):
        row = _cifar(depth - 2, "arXiv 1605.07146, table 1", widths=(16 * k, 32 * k, 64 * k), order="pre", shortcut="B")
        rows[f"wrn{depth}_{k}_cifar"] = dataclasses.replace(row, config=dataclasses.replace(row.config, stem_width=16))
    for groups, width in ((32, 4), (8, 64), (16, 64)):
        rows[f"resnext29_{groups}x{width}d_cifar"] = _cifar(
            29, "arXiv 1611.05431, section 5.3", per_block=3, widths=(64, 128, 256), shortcut="B",
            groups=groups, base_width=width,
        )  # fmt: skip
    return rows


@_family
def _cifar_attention() -> dict[str, NamedModel]:
    choices = {"attention": "se", "se_divisor": 1, "shortcut": "B"}
    rows = {}
    for depth in (20, 56, 110):
        rows[f"seresnet{depth}_cifar"] = _cifar(depth, "arXiv 1709.01507; ratio 16", **choices)
        rows[f"sepreact{depth}_cifar"] = _cifar(depth, "arXiv 1709.01507; ratio 16", order="pre", **choices)
    return rows


@_family
def _cifar_norm_free() -> dict[str, NamedModel]:
    rows = {}
    for depth in (20, 32, 44, 56, 110, 1202):
        rows[f"fixup_resnet{depth}_cifar"] = _cifar(
            depth, "arXiv 1901.09321, section 4.2", residual="fixup", norm="none", shortcut="A_end"
        )
        rows[f"rezero_resnet{depth}_cifar"] = _cifar(depth, "arXiv 2003.04887", residual="rezero", norm="none")
        rows[f"skipinit_resnet{depth}_cifar"] = _cifar(
            depth, "arXiv 2002.10444", residual="skipinit", norm="none", order="pre", shortcut="B"
        )
        rows[f"nf_resnet{depth}_cifar"] = _cifar(
            depth, "arXiv 2101.08692's rules on the CIFAR net", residual="nf", norm="none", shortcut="B"
        )
    return rows


@_family
def _cifar_fast() -> dict[str, NamedModel]:
    choices = {
        "stem": "whiten", "transition": "conv_pool", "activation": "gelu_erf", "norm_eps": 1e-12, "norm_momentum": 0.6,
        "head_pool": "max", "init": "dirac", "logit_scale": 1 / 9, "num_classes": 10,
    }  # fmt: skip
    plain = {"block": "single", "shortcut": "none"}
    return {
        "airbench94_cifar": NamedModel(
            ResNetConfig((1, 1, 1), (64, 256, 256), **plain, **choices), 32, "arXiv 2404.00498, section 3; no skips"
        ),
        "airbench96_cifar": NamedModel(
            ResNetConfig((1, 1, 1), (128, 384, 512), **choices), 32, "arXiv 2404.00498, section 4"
        ),
    }


@_family
def _series() -> dict[str, NamedModel]:
    paper = "arXiv 1611.06455, fig. 1 (c), as in hfawaz/dl-4-tsc"
    choices: dict[str, Any] = {
        "block": "series", "stem": "none", "transition": "none", "conv_bias": True, "init": "xavier_uniform",
        "head_init": "xavier_uniform", "norm_eps": 1e-3, "spatial_dims": 1, "in_channels": 1, "num_classes": 2,
    }  # fmt: skip
    bare = {**choices, "norm": "none", "shortcut": "B", "head_init": None}
    own = {name: value for name, value in bare.items() if name != "init"}
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "resnet_ts": (paper, {**choices, "shortcut": "B_norm"}),
        "fixup_resnet_ts": (
            "arXiv 1901.09321's rules on the net of arXiv 1611.06455",
            {**own, "residual": "fixup", "conv_bias": False},
        ),
        "skipinit_resnet_ts": (
            "arXiv 2002.10444's rule on the net of arXiv 1611.06455; a stem of 3",
            {**own, "residual": "skipinit", "order": "pre", "stem": "cifar"},
        ),
        "nf_resnet_ts": (
            "arXiv 2101.08692's rules on the net of arXiv 1611.06455; a stem of 3",
            {**own, "residual": "nf", "stem": "cifar"},
        ),
    }
    sizes = (1, 1, 1), (64, 128, 128)
    return {name: NamedModel(ResNetConfig(*sizes, **made), 150, source) for name, (source, made) in ways.items()}


@_family
def _characters() -> dict[str, NamedModel]:
    paper = "arXiv 1606.01781, table 2, with strides, 1x1 shortcuts, one maximum over all and one dense layer"
    choices: dict[str, Any] = {
        "frontend": "one_hot", "stem": "cifar", "head_pool": "max", "spatial_dims": 1, "in_channels": 1,
        "num_classes": 10,
    }  # fmt: skip
    depths = {9: (1, 1, 1, 1), 17: (2, 2, 2, 2), 29: (5, 5, 2, 2)}
    return {f"vdcnn{depth}": NamedModel(ResNetConfig(sizes, **choices), 128, paper) for depth, sizes in depths.items()}
