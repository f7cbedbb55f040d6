"""Known facts about networks with published weights: image size, normalization, names of the outputs.

A state dict says nothing about these, and a wrong guess silently gives wrong answers. Therefore only what the named
source says about *all* of its weights for a network counts as known; what holds only for some does not. The ImageNet
classes are their WordNet ids, as in folders and in TensorFlow Datasets (``imagenet_wnids.txt``, in label order; the
list is that of ``timm/data/_info/imagenet_synsets.txt``, Apache-2.0).
"""

from __future__ import annotations

import dataclasses
from importlib import resources

from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.rows import MODELS

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

AKAMASTER = "akamaster/pytorch_resnet_cifar10, trainer.py"
TORCHVISION = "torchvision, the transforms of its weights"
TIMM = "timm 1.0.31, the default_cfg of its weights"
TRANSFORMERS = "timm, whose weights transformers' convert_resnet_to_pytorch.py converted"

#: The option-A nets of akamaster/pytorch_resnet_cifar10, whose code supports no data other than CIFAR-10.
_AKAMASTER = {f"resnet{depth}_cifar" for depth in (20, 32, 44, 56, 110, 1202)}
#: torchvision/models/resnet.py: all of these weights are for 224 pixels and ImageNet's normalization. (Weights "V2"
#: were measured with the shorter side resized to 232, not 256.)
_TORCHVISION = {
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
}  # fmt: skip
#: timm/models/{resnet,resnetv2,nfnet}.py: the normalization of all 1,000-class weights of a network; None where they
#: differ (:data:`_CAUTIONS`).
_TIMM: dict[str, Normalization | None] = {
    "resnet18d": None,
    "resnet50d": None,
    **dict.fromkeys(_TORCHVISION, IMAGENET),
    **dict.fromkeys(
        (
            "resnet26", "resnet34d", "resnet26d", "resnet101d", "resnet152d", "resnet200d", "resnet26t", "resnet50c",
            "resnet50s", "resnext101_32x4d", "resnext101_32x16d", "resnext50d_32x4d", "seresnet50",
            "seresnext50_32x4d", "seresnext101_32x4d", "seresnext101_32x8d", "ecaresnet26t", "ecaresnet50t",
            "ecaresnet50d", "ecaresnet101d", "resnetrs50", "resnetrs101", "resnetrs152", "resnetrs200", "resnetrs270",
            "resnetrs350", "resnetrs420", "nf_resnet50_timm",
        ),
        IMAGENET,
    ),
    **dict.fromkeys(
        (
            "resnetv2_18", "resnetv2_34", "resnetv2_50", "resnetv2_101", "resnetv2_18d", "resnetv2_34d", "bit_r50x1",
            "bit_r50x3", "bit_r101x1", "bit_r101x3", "bit_r152x2", "bit_r152x4",
        ),
        HALF,
    ),
}  # fmt: skip
#: Those of them that are evaluated without a margin around the crop, at a size that all weights share.
_TIMM_SIZES = {
    "resnetrs152": 256, "resnetrs200": 256, "resnetrs270": 256, "resnetrs350": 288, "resnetrs420": 320,
    "bit_r50x3": 448, "bit_r101x1": 448, "bit_r101x3": 448, "bit_r152x4": 480,
}  # fmt: skip
_TRANSFORMERS = {"resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152"}

_HALF_WANTED = "wants mean and std 0.5"
_MOST = "timm's weights of this network want ImageNet's mean 0.485 0.456 0.406 and std 0.229 0.224 0.225, but"
#: Networks some of whose weights have a different normalization, which no name in the file reveals.
_CAUTIONS = {
    "resnet34": f"timm's resnet34.ra4_e3600_r224_in1k has the same names and {_HALF_WANTED}",
    "resnet18d": f"{_MOST} resnet18d.ra4_e3600_r224_in1k {_HALF_WANTED}",
    "resnet50d": f"{_MOST} resnet50d.ra4_e3600_r224_in1k {_HALF_WANTED}",
}

#: Choices that do not change the function of a trained network, or that a library's own epsilon may change.
_FREE = {
    "ws_eps", "norm_momentum", "norm_scope", "ghost_size", "norm_group_devices", "norm_devices", "dropout",
    "head_dropout", "drop_path", "init", "head_init", "execution", "remat", "dtype", "param_dtype", "axis_name",
    "num_classes",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Known:
    """Known facts about a network's images and outputs, with their source.

    Attributes:
        image_size: side in pixels.
        crop: ``random_resized`` (evaluation crops the central 0.875 of the resized image) or ``none``.
        size_source: source of the size.
        normalization: mean and deviation per channel of x / 255; None if unknown.
        class_names: names of the outputs; None if unknown.
        source: source of normalization and names.
        caution: other uses of the same names; empty if none are known.
    """

    image_size: int
    crop: str
    size_source: str
    normalization: Normalization | None = None
    class_names: tuple[str, ...] | None = None
    source: str = ""
    caution: str = ""


def known_of(format: str, name: str, config: ResNetConfig) -> Known:
    """Return the known facts about weights in ``format`` for the network ``name`` with the choices ``config``.

    >>> from resnet_jax.models import create_model
    >>> known_of("cifar", "resnet20_cifar", create_model("resnet20_cifar").config).class_names[3]
    'cat'
    """
    known = _usual_size(name, config)
    if not is_as_named(name, config):
        return known
    if format == "cifar" and name in _AKAMASTER and config.num_classes == 10:
        return dataclasses.replace(
            known, size_source=f"as in {AKAMASTER}", normalization=IMAGENET, class_names=CIFAR10, source=AKAMASTER
        )
    if format in ("torchvision", "timm") and name in _TIMM and config.num_classes in (1000, 21843):
        source = TORCHVISION if name in _TORCHVISION else TIMM
        if config.num_classes == 21843 and not name.startswith("bit_"):
            return known
        known = dataclasses.replace(known, normalization=_TIMM[name], source=source, caution=_CAUTIONS.get(name, ""))
        if name in _TORCHVISION:
            known = dataclasses.replace(known, size_source=f"as in {TORCHVISION}")
        elif name in _TIMM_SIZES and config.num_classes == 1000:
            known = dataclasses.replace(known, image_size=_TIMM_SIZES[name], crop="none", size_source=f"as in {TIMM}")
    elif format == "transformers" and name in _TRANSFORMERS and config.num_classes == 1000:
        known = dataclasses.replace(
            known, normalization=IMAGENET, source=TRANSFORMERS, size_source=f"as in {TRANSFORMERS}"
        )
    else:
        return known
    return dataclasses.replace(known, class_names=imagenet_wnids() if config.num_classes == 1000 else None)


def is_as_named(name: str, config: ResNetConfig) -> bool:
    """Return whether ``config`` computes the same as the network called ``name``, except for the number of classes."""
    named = MODELS[name].config
    fields = [field.name for field in dataclasses.fields(ResNetConfig) if field.name not in _FREE]
    return all(getattr(config, field) == getattr(named, field) for field in fields)


def imagenet_wnids() -> tuple[str, ...]:
    """Return the WordNet ids of the 1,000 ImageNet classes in label order.

    >>> len(imagenet_wnids()), imagenet_wnids()[0]
    (1000, 'n01440764')
    """
    return tuple(resources.files("resnet_jax.weights").joinpath("imagenet_wnids.txt").read_text("ascii").split())


def _usual_size(name: str, config: ResNetConfig) -> Known:
    """Return only the size for which networks with such a stem are usually published."""
    size = MODELS[name].image_size
    if config.stem == "cifar" and MODELS[name].config.stem != "cifar":
        size = 32
    crop = "random_resized" if size >= 64 else "none"
    return Known(size, crop, "usual for such a network")
