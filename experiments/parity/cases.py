"""The networks of each peer that are compared with ours, as plain data that both sides read."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        peer: the library that builds the reference, a key of ``peer.BUILDERS``.
        build: how it is asked for it, as that builder takes it.
        model: the name of our network.
        choices: what is changed in it.
        format: the weight format of the peer's state dict.
        image_size: side of the images; 48 is odd (3) at the last stride.
        batch: images.
    """

    peer: str
    build: dict[str, Any]
    model: str
    choices: dict[str, Any]
    format: str
    image_size: int = 48
    batch: int = 4


CLASSES = 10
_SHALLOW = (1, 2, 1, 1)  # every kind of block once, and one after another


def _transformers(model: str, choices: dict[str, Any], **build: Any) -> Case:
    return Case("transformers", build, model, choices, "transformers")


def _torchvision(model: str, **build: Any) -> Case:
    """A named network, or a shallow one of the same class when its arguments are given."""
    choices = {"stage_sizes": _SHALLOW} if build else {}
    return Case("torchvision", {"name": model, **build}, model, choices, "torchvision")


def _timm(name: str, model: str | None = None, choices: dict[str, Any] | None = None, **build: Any) -> Case:
    return Case("timm", {"name": name, **build}, model or name, choices or {}, "timm")


def _timm_small(
    name: str, model: str | None = None, choices: dict[str, Any] | None = None, *, basic: bool = False, **build: Any
) -> Case:
    """Few and thin blocks: the first, an identity, and one that strides."""
    nf, v2 = name.startswith("nf_"), name.startswith("resnetv2")
    stages, widths = ((2, 1), (32, 64)) if nf or v2 else ((2, 1, 1, 1), (16, 24, 32, 40))  # its ResNet has four
    channels = widths if basic or not (nf or v2) else tuple(4 * width for width in widths)
    small = {"stage_sizes": stages, "widths": widths, "stem_width": 64, **(choices or {})}
    return _timm(name, model, small, **{"depths" if nf else "layers": stages}, channels=channels, **build)


def _pytorchcv(name: str, model: str, **choices: Any) -> Case:
    return Case("pytorchcv", {"name": name}, model, choices, "pytorchcv", image_size=32)


def _pytorchcv_class(name: str, model: str, channels: list[list[int]], **build: Any) -> Case:
    """A network of pytorchcv's CIFAR classes, which take the channels of every block."""
    stage_sizes = tuple(len(stage) for stage in channels)
    build = {"name": name, "channels": channels, **build}
    return Case("pytorchcv", build, model, {"stage_sizes": stage_sizes}, "pytorchcv", image_size=32)


def _fixup(name: str, model: str, image_size: int = 32) -> Case:
    return Case("fixup", {"name": name}, model, {}, "fixup", image_size)


_TINY = {"stage_sizes": (2, 1), "widths": (4, 8), "stem_width": 6, "block": "bottleneck"}
_TIMM_NF = {"shortcut": "D", "ws_eps": 1e-5}  # timm pools before the projection and has its own epsilon

CASES: dict[str, Case] = {
    # transformers. "tiny" is the one that is kept under tests/weights/data
    "transformers-tiny": dataclasses.replace(
        _transformers("resnet50", _TINY, depths=[2, 1], hidden_sizes=[16, 32], embedding_size=6), image_size=32
    ),
    "transformers-basic": _transformers(
        "resnet18", {}, layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512]
    ),
    "transformers-bottleneck": _transformers("resnet50", {"stage_sizes": _SHALLOW}, depths=list(_SHALLOW)),
    "transformers-stride-in-1x1": _transformers(
        "resnet50_v1", {"stage_sizes": _SHALLOW}, depths=list(_SHALLOW), downsample_in_bottleneck=True
    ),
    # torchvision
    "torchvision-resnet18": _torchvision("resnet18"),
    "torchvision-resnext50_32x4d": _torchvision("resnext50_32x4d", groups=32, width_per_group=4),
    "torchvision-wide_resnet50_2": _torchvision("wide_resnet50_2", width_per_group=128),
    # timm
    "timm-resnet18d": _timm_small("resnet18d"),
    "timm-resnet50d": _timm_small("resnet50d"),
    "timm-resnet50t": _timm_small("resnet50t"),
    "timm-resnet50s": _timm_small("resnet50s"),
    "timm-seresnet18": _timm_small("seresnet18"),
    "timm-seresnet50": _timm_small("seresnet50"),
    "timm-ecaresnet50d": _timm_small("ecaresnet50d"),
    "timm-resnetrs50": _timm_small("resnetrs50"),
    "timm-resnetv2_18": _timm_small("resnetv2_18", basic=True),
    "timm-resnetv2_50-small": _timm_small("resnetv2_50"),
    "timm-resnetv2_50d": _timm_small("resnetv2_50d"),
    "timm-resnetv2_50x1_bit": _timm_small("resnetv2_50x1_bit", "bit_r50x1", {"ws_eps": 1e-8}),
    "timm-nf_resnet50-skipinit": _timm_small("nf_resnet50", "nf_gain_resnet50", _TIMM_NF, skipinit=True),
    "timm-nf_resnet50-small": _timm_small("nf_resnet50", None, _TIMM_NF),
    "timm-nf_seresnet50": _timm_small("nf_seresnet50", None, _TIMM_NF),
    "timm-nf_ecaresnet50": _timm_small("nf_ecaresnet50", None, _TIMM_NF),
    # pytorchcv, the CIFAR nets
    "pytorchcv-resnet20": _pytorchcv("resnet20_cifar10", "resnet20_cifar_b"),
    "pytorchcv-resnet-bottleneck": _pytorchcv_class(
        "resnet_cifar.CIFARResNet", "resnet164_cifar", [[64] * 2, [128] * 2, [256] * 2], init_block_channels=16,
        bottleneck=True,
    ),
    "pytorchcv-preresnet20": _pytorchcv("preresnet20_cifar10", "preact20_cifar"),
    "pytorchcv-preresnet-bottleneck": _pytorchcv_class(
        "preresnet_cifar.CIFARPreResNet", "preact164_cifar", [[64] * 2, [128] * 2, [256] * 2], init_block_channels=16,
        bottleneck=True,
    ),
    "pytorchcv-wrn16-2": _pytorchcv_class(
        "wrn_cifar.CIFARWRN", "wrn16_2_cifar", [[32] * 2, [64] * 2, [128] * 2], init_block_channels=16
    ),
    "pytorchcv-wrn28-2": _pytorchcv_class(
        "wrn_cifar.CIFARWRN", "wrn28_2_cifar", [[32] * 4, [64] * 4, [128] * 4], init_block_channels=16
    ),
    "pytorchcv-seresnet20": _pytorchcv("seresnet20_cifar10", "seresnet20_cifar"),
    "pytorchcv-sepreresnet20": _pytorchcv("sepreresnet20_cifar10", "sepreact20_cifar"),
    "pytorchcv-resnext-32x4d": _pytorchcv_class(
        "resnext_cifar.CIFARResNeXt", "resnext29_32x4d_cifar", [[256], [512], [1024]], init_block_channels=64,
        cardinality=32, bottleneck_width=4,
    ),
    # repositories that are no packages: --checkout NAME=FOLDER
    "akamaster-resnet20": Case("akamaster", {"name": "resnet20"}, "resnet20_cifar", {}, "cifar", image_size=32),
    "akamaster-resnet56": Case("akamaster", {"name": "resnet56"}, "resnet56_cifar", {}, "cifar", image_size=32),
    "fixup-resnet20": _fixup("cifar.fixup_resnet20", "fixup_resnet20_cifar"),
    "fixup-resnet56": _fixup("cifar.fixup_resnet56", "fixup_resnet56_cifar"),
    "fixup-imagenet18": _fixup("imagenet.fixup_resnet18", "fixup_resnet18", image_size=48),
    "fixup-imagenet50": _fixup("imagenet.fixup_resnet50", "fixup_resnet50", image_size=48),
    # whole ones: every block of 50 layers
    "torchvision-resnet50": _torchvision("resnet50"),
    "timm-resnetv2_50": _timm("resnetv2_50"),
    "timm-nf_resnet50": _timm("nf_resnet50", None, _TIMM_NF),
}  # fmt: skip
