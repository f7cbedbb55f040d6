"""Other libraries' names for the variables of a residual network, as data.

The left side of each row is a template of our path, the right side one of theirs. ``{stage}`` counts from 1,
``{block}`` from 0 and ``{i}``, the place of a layer in its branch or stem, from 1, as in our paths. ``{stage0}`` and
``{i0}`` are the same counted from 0, ``{block1}`` from 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.paths import BLOCK

#: PyTorch's name for each of our leaves, by collection.
LEAVES: dict[str, dict[str, str]] = {
    "params": {"kernel": "weight", "scale": "weight", "bias": "bias", "gain": "gain"},
    "batch_stats": {"mean": "running_mean", "var": "running_var"},
}


@dataclasses.dataclass(frozen=True)
class Convention:
    """The names of one kind of network in one library.

    A state dict reveals the structure of a network and nothing else, so two networks can have the same names and still
    compute different functions. Where the structure itself would be misread, ``requires`` rejects the network.

    Attributes:
        modules: the foreign module name, by template of our module path; leaf names are those of :data:`LEAVES`.
        variables: the complete foreign name, by template of our path, where it does not follow from the module's.
        requires: values that a choice of the network must have for these names to apply.
        unit_axes: number of trailing axes of length 1 that only the foreign array has, by template of our path.
        gain_powers: by template of our path, the power p in ``ours = gamma^p theirs``, where gamma is the activation's
            gain: for a library that multiplies by gamma elsewhere (:data:`resnet_jax.models.activation.GAINS`).
    """

    modules: Mapping[str, str]
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    requires: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    unit_axes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    gain_powers: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def misfit(self, config: ResNetConfig) -> str:
        """Return the choice of ``config`` that these names cannot express, or an empty string if they fit.

        >>> Convention({}, requires={"shortcut": ("A", "B")}).misfit(ResNetConfig((1,), (8,), shortcut="C"))
        "shortcut 'C' (need 'A' or 'B')"
        """
        for choice, values in {**_COMMON, **self.requires}.items():
            value = _in_effect(config, choice)
            if value not in values:
                return f"{choice} {value!r} (need {' or '.join(map(repr, values))})"
        return ""


def _in_effect(config: ResNetConfig, choice: str) -> Any:
    """Return the value of a choice; for one that may be None, the value in effect."""
    effects = {"order": "pre" if config.is_pre else "post", "weight_standardization": config.standardizes}
    return effects[choice] if choice in effects else getattr(config, choice)


_COMMON = {"transition": ("stride",), "logit_scale": (1.0,)}  # of all libraries
_PLAIN = {"order": ("post",), "residual": ("plain", "zero_gamma"), "weight_standardization": ("none",)}
_NO_ATTENTION = {"attention": ("none",)}
_SQUEEZE = {"attention": ("none", "se")}
_STRIDED = {"shortcut": ("A", "A_end", "B", "C", "none")}
_SIMPLE_STEM = {"stem": ("imagenet", "cifar"), "stem_pool": ("max",)}

# torchvision's names, which most PyTorch libraries have kept
_LAYERS = {
    "stem/conv": "conv1",
    "stem/norm": "bn1",
    f"{BLOCK}/branch/conv{{i}}": "layer{stage}.{block}.conv{i}",
    f"{BLOCK}/branch/norm{{i}}": "layer{stage}.{block}.bn{i}",
}

# torchvision/models/resnet.py
_TORCHVISION = {
    **_LAYERS,
    f"{BLOCK}/shortcut/conv": "layer{stage}.{block}.downsample.0",
    f"{BLOCK}/shortcut/norm": "layer{stage}.{block}.downsample.1",
    "head": "fc",
}

# akamaster/pytorch_resnet_cifar10, resnet.py
_CIFAR = {
    **_LAYERS,
    f"{BLOCK}/shortcut/conv": "layer{stage}.{block}.shortcut.0",
    f"{BLOCK}/shortcut/norm": "layer{stage}.{block}.shortcut.1",
    "head": "linear",
}

# timm/models/resnet.py; with shortcut D, place 0 of `downsample` is the pooling
_TIMM = {
    **_TORCHVISION,
    "stem/conv1": "conv1.0",
    "stem/norm1": "conv1.1",
    "stem/conv2": "conv1.3",
    "stem/norm2": "conv1.4",
    "stem/conv3": "conv1.6",
    "stem/norm3": "bn1",
    "stem/pool_conv": "maxpool.0",
    "stem/pool_norm": "maxpool.1",
    f"{BLOCK}/branch/se/reduce": "layer{stage}.{block}.se.fc1",
    f"{BLOCK}/branch/se/expand": "layer{stage}.{block}.se.fc2",
    f"{BLOCK}/branch/eca/conv": "layer{stage}.{block}.se.conv",
}
_TIMM_D = {
    **_TIMM,
    f"{BLOCK}/shortcut/conv": "layer{stage}.{block}.downsample.1",
    f"{BLOCK}/shortcut/norm": "layer{stage}.{block}.downsample.2",
}
_SE_UNITS = {f"{BLOCK}/branch/se/reduce/kernel": 2, f"{BLOCK}/branch/se/expand/kernel": 2}

# timm/models/resnetv2.py: v2 and BiT; the classifier is a 1x1 convolution
_TIMM_V2 = {
    "stem/conv": "stem.conv",
    "stem/conv{i}": "stem.conv{i}",
    "stem/norm{i}": "stem.norm{i}",
    f"{BLOCK}/preact/norm": "stages.{stage0}.blocks.{block}.norm1",
    f"{BLOCK}/branch/conv{{i}}": "stages.{stage0}.blocks.{block}.conv{i}",
    f"{BLOCK}/branch/norm{{i}}": "stages.{stage0}.blocks.{block}.norm{i}",
    f"{BLOCK}/shortcut/conv": "stages.{stage0}.blocks.{block}.downsample.conv",
    "norm": "norm",
    "head": "head.fc",
}

# timm/models/nfnet.py, the nf_resnets
_TIMM_NF = {
    "stem/conv": "stem.conv",
    "stem/conv{i}": "stem.conv{i}",
    f"{BLOCK}/branch/conv{{i}}": "stages.{stage0}.{block}.conv{i}",
    f"{BLOCK}/branch/se/reduce": "stages.{stage0}.{block}.attn_last.fc1",
    f"{BLOCK}/branch/se/expand": "stages.{stage0}.{block}.attn_last.fc2",
    f"{BLOCK}/branch/eca/conv": "stages.{stage0}.{block}.attn_last.conv",
    f"{BLOCK}/shortcut/conv": "stages.{stage0}.{block}.downsample.conv",
    "head": "head.fc",
}
_GAIN_UNITS = {
    f"{path}/gain": 3 for path in ("stem/conv", "stem/conv{i}", f"{BLOCK}/branch/conv{{i}}", f"{BLOCK}/shortcut/conv")
}

# transformers/models/resnet/modeling_resnet.py
_TRANSFORMERS = {
    "stem/conv": "resnet.embedder.embedder.convolution",
    "stem/norm": "resnet.embedder.embedder.normalization",
    f"{BLOCK}/branch/conv{{i}}": "resnet.encoder.stages.{stage0}.layers.{block}.layer.{i0}.convolution",
    f"{BLOCK}/branch/norm{{i}}": "resnet.encoder.stages.{stage0}.layers.{block}.layer.{i0}.normalization",
    f"{BLOCK}/shortcut/conv": "resnet.encoder.stages.{stage0}.layers.{block}.shortcut.convolution",
    f"{BLOCK}/shortcut/norm": "resnet.encoder.stages.{stage0}.layers.{block}.shortcut.normalization",
    "head": "classifier.1",
}

# osmr/pytorchcv: resnet.py, resnet_cifar.py, resnext_cifar.py, seresnet_cifar.py
_PYTORCHCV = {
    "stem/conv": "features.init_block.conv",
    "stem/norm": "features.init_block.bn",
    f"{BLOCK}/branch/conv{{i}}": "features.stage{stage}.unit{block1}.body.conv{i}.conv",
    f"{BLOCK}/branch/norm{{i}}": "features.stage{stage}.unit{block1}.body.conv{i}.bn",
    f"{BLOCK}/branch/se/reduce": "features.stage{stage}.unit{block1}.se.conv1",
    f"{BLOCK}/branch/se/expand": "features.stage{stage}.unit{block1}.se.conv2",
    f"{BLOCK}/shortcut/conv": "features.stage{stage}.unit{block1}.identity_conv.conv",
    f"{BLOCK}/shortcut/norm": "features.stage{stage}.unit{block1}.identity_conv.bn",
    "head": "output",
}
_PYTORCHCV_IMAGENET = {
    **_PYTORCHCV,
    "stem/conv": "features.init_block.conv.conv",
    "stem/norm": "features.init_block.conv.bn",
}
# preresnet_cifar.py, wrn_cifar.py, sepreresnet_cifar.py; its ImageNet nets have a norm after the stem, ours do not
_PYTORCHCV_PRE = {
    **_PYTORCHCV,
    "stem/conv": "features.init_block",
    f"{BLOCK}/preact/norm": "features.stage{stage}.unit{block1}.body.conv1.bn",
    f"{BLOCK}/shortcut/conv": "features.stage{stage}.unit{block1}.identity_conv",
    "norm": "features.post_activ.bn",
}

# hongyi-zhang/Fixup, cifar/models/fixup_resnet_cifar.py and imagenet/models/fixup_resnet_imagenet.py
_FIXUP = {
    "stem/conv": "conv1",
    f"{BLOCK}/branch/conv{{i}}": "layer{stage}.{block}.conv{i}",
    f"{BLOCK}/shortcut/conv": "layer{stage}.{block}.downsample",
    "head": "fc",
}
_FIXUP_SCALARS = {
    "stem/bias1": "bias1",
    f"{BLOCK}/bias1a": "layer{stage}.{block}.bias1a",
    f"{BLOCK}/branch/bias{{i}}a": "layer{stage}.{block}.bias{i}a",
    f"{BLOCK}/branch/bias{{i}}b": "layer{stage}.{block}.bias{i}b",
    f"{BLOCK}/branch/scale": "layer{stage}.{block}.scale",
    "bias2": "bias2",
}

#: The formats of weight files: the names for each kind of network. The first that fits the network is used.
FORMATS: dict[str, tuple[Convention, ...]] = {
    "torchvision": (
        Convention(
            _TORCHVISION,
            requires={**_PLAIN, **_STRIDED, **_SIMPLE_STEM, **_NO_ATTENTION},
        ),
    ),
    "timm": (
        Convention(_TIMM, requires={**_PLAIN, **_STRIDED, "stem_pool": ("max", "conv")}, unit_axes=_SE_UNITS),
        Convention(_TIMM_D, requires={**_PLAIN, "shortcut": ("D",), "stem_pool": ("max", "conv")}, unit_axes=_SE_UNITS),
        Convention(
            _TIMM_V2,
            requires={"order": ("pre",), "residual": ("plain",), **_NO_ATTENTION},
            unit_axes={"head/kernel": 2},
        ),
        Convention(
            _TIMM_NF,
            variables={f"{BLOCK}/branch/gain": "stages.{stage0}.{block}.skipinit_gain"},
            requires={"residual": ("nf", "nf_gain"), "shortcut": ("D",), "stem_pool": ("max",)},
            unit_axes={**_SE_UNITS, **_GAIN_UNITS},
            # timm multiplies the weights by gamma even if no activation precedes them; our gain follows activations
            gain_powers={"stem/conv/gain": 1, "stem/conv1/gain": 1, "head/kernel": -1},
        ),
    ),
    "cifar": (Convention(_CIFAR, requires={**_PLAIN, **_STRIDED, **_SIMPLE_STEM, **_NO_ATTENTION}),),
    "transformers": (
        Convention(_TRANSFORMERS, requires={**_PLAIN, **_SIMPLE_STEM, **_NO_ATTENTION, "shortcut": ("B",)}),
    ),
    "pytorchcv": (
        Convention(
            _PYTORCHCV,
            requires={**_PLAIN, **_SQUEEZE, "stem": ("cifar",), "shortcut": ("B",)},
            unit_axes=_SE_UNITS,
        ),
        Convention(
            _PYTORCHCV_IMAGENET,
            requires={**_PLAIN, **_SIMPLE_STEM, **_SQUEEZE, "stem": ("imagenet",), "shortcut": ("B",)},
            unit_axes=_SE_UNITS,
        ),
        Convention(
            _PYTORCHCV_PRE,
            requires={**_PLAIN, **_SQUEEZE, "order": ("pre",), "stem": ("cifar",), "shortcut": ("B",)},
            unit_axes=_SE_UNITS,
        ),
    ),
    "fixup": (
        Convention(
            _FIXUP,
            _FIXUP_SCALARS,
            requires={"residual": ("fixup",), "shortcut": ("A_end", "B"), **_SIMPLE_STEM, **_NO_ATTENTION},
            unit_axes=dict.fromkeys(_FIXUP_SCALARS, 1),
        ),
    ),
}
