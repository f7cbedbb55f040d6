from __future__ import annotations

import contextlib
import dataclasses

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, create_model, list_models
from resnet_jax.weights.conventions import FORMATS
from resnet_jax.weights.names import (
    detect,
    find_convention,
    flat_shapes,
    foreign_name,
    foreign_names,
    look_up,
    name_map,
)


def norm(name: str) -> list[str]:
    return [f"{name}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]


def conv(name: str, leaves: tuple[str, ...] = ("weight",)) -> list[str]:
    return [f"{name}.{leaf}" for leaf in leaves]


def torchvision_names(stages: list[int], convs: int, shortcut: str, head: str, projected: list[int]) -> set[str]:
    """Return the state dict's names as the peers' constructors make them."""
    names = ["conv1.weight", *norm("bn1"), f"{head}.weight", f"{head}.bias"]
    for stage, blocks in enumerate(stages, 1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            for i in range(1, convs + 1):
                names += [f"{prefix}.conv{i}.weight", *norm(f"{prefix}.bn{i}")]
            if block == 0 and stage in projected:
                names += [f"{prefix}.{shortcut}.0.weight", *norm(f"{prefix}.{shortcut}.1")]
    return set(names)


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("resnet18", "torchvision", torchvision_names([2, 2, 2, 2], 2, "downsample", "fc", [2, 3, 4])),
        ("resnet50", "torchvision", torchvision_names([3, 4, 6, 3], 3, "downsample", "fc", [1, 2, 3, 4])),
        ("resnet20_cifar", "cifar", torchvision_names([3, 3, 3], 2, "shortcut", "linear", [])),
        ("resnet20_cifar_b", "cifar", torchvision_names([3, 3, 3], 2, "shortcut", "linear", [2, 3])),
    ],
)
def test_names_are_the_peers_and_a_bijection(name, format, expected):
    model = create_model(name)
    names = name_map(model, format)
    assert set(names.values()) == expected
    assert len(set(names.values())) == len(names)
    assert detect(expected, model.config, names) == format


def tiny(name: str, **choices):
    """One block in each of two stages of a named network."""
    return create_model(name, stage_sizes=(1, 1), widths=(16, 32), **choices)


DEEP = [*conv("conv1.0"), *norm("conv1.1"), *conv("conv1.3"), *norm("conv1.4"), *conv("conv1.6"), *norm("bn1")]
WITH_BIAS = ("weight", "bias")


def bottleneck_names(prefix: str) -> list[str]:
    return [name for i in (1, 2, 3) for name in (*conv(f"{prefix}.conv{i}"), *norm(f"{prefix}.bn{i}"))]


def resnetrs() -> list[str]:
    """timm/models/resnet.py: deep stem, convolution for max-pool, SE, average-pool shortcut."""
    names = [*DEEP, *conv("maxpool.0"), *norm("maxpool.1"), *conv("fc", WITH_BIAS)]
    for prefix in ("layer1.0", "layer2.0"):
        names += bottleneck_names(prefix)
        names += [*conv(f"{prefix}.se.fc1", WITH_BIAS), *conv(f"{prefix}.se.fc2", WITH_BIAS)]
        names += [*conv(f"{prefix}.downsample.1"), *norm(f"{prefix}.downsample.2")]
    return names


def ecaresnet() -> list[str]:
    names = [*DEEP, *conv("fc", WITH_BIAS)]
    for prefix in ("layer1.0", "layer2.0"):
        names += [*bottleneck_names(prefix), f"{prefix}.se.conv.weight"]
        names += [*conv(f"{prefix}.downsample.1"), *norm(f"{prefix}.downsample.2")]
    return names


def resnetv2d() -> list[str]:
    """timm/models/resnetv2.py: in pre-activation order the stem's last norm and the projection's are not there."""
    names = [*conv("stem.conv1"), *norm("stem.norm1"), *conv("stem.conv2"), *norm("stem.norm2"), *conv("stem.conv3")]
    names += [*norm("norm"), *conv("head.fc", WITH_BIAS)]
    for prefix in ("stages.0.blocks.0", "stages.1.blocks.0"):
        for i in (1, 2, 3):
            names += [*conv(f"{prefix}.conv{i}"), *norm(f"{prefix}.norm{i}")]
        names += conv(f"{prefix}.downsample.conv")
    return names


def bit() -> list[str]:
    """The same with group norms, which have no running statistics, and a simple stem."""
    names = [name for name in resnetv2d() if "running" not in name and not name.startswith("stem")]
    return [*names, "stem.conv.weight"]


def nf_seresnet() -> list[str]:
    """timm/models/nfnet.py"""
    scaled = ("weight", "bias", "gain")
    names = [*conv("stem.conv", scaled), *conv("head.fc", WITH_BIAS)]
    for prefix in ("stages.0.0", "stages.1.0"):
        names += [name for i in (1, 2, 3) for name in conv(f"{prefix}.conv{i}", scaled)]
        names += conv(f"{prefix}.downsample.conv", scaled)
        names += [*conv(f"{prefix}.attn_last.fc1", WITH_BIAS), *conv(f"{prefix}.attn_last.fc2", WITH_BIAS)]
    return names


def transformers() -> list[str]:
    """transformers/models/resnet/modeling_resnet.py"""
    names = ["resnet.embedder.embedder.convolution.weight", *norm("resnet.embedder.embedder.normalization")]
    names += conv("classifier.1", WITH_BIAS)
    for stage in (0, 1):
        prefix = f"resnet.encoder.stages.{stage}.layers.0"
        for i in (0, 1):
            names += [f"{prefix}.layer.{i}.convolution.weight", *norm(f"{prefix}.layer.{i}.normalization")]
        if stage:
            names += [f"{prefix}.shortcut.convolution.weight", *norm(f"{prefix}.shortcut.normalization")]
    return names


def pytorchcv(*, pre: bool) -> list[str]:
    """pytorchcv/models/sepreresnet_cifar.py and seresnet_cifar.py"""
    if pre:
        names = ["features.init_block.weight", *norm("features.post_activ.bn")]
    else:
        names = ["features.init_block.conv.weight", *norm("features.init_block.bn")]
    names += conv("output", WITH_BIAS)
    for stage in (1, 2):
        prefix = f"features.stage{stage}.unit1"
        names += [*conv(f"{prefix}.se.conv1", WITH_BIAS), *conv(f"{prefix}.se.conv2", WITH_BIAS)]
        for i in (1, 2):
            names += [f"{prefix}.body.conv{i}.conv.weight", *norm(f"{prefix}.body.conv{i}.bn")]
        if stage == 2:
            names += [f"{prefix}.identity_conv.weight"] if pre else [f"{prefix}.identity_conv.conv.weight"]
            names += [] if pre else norm(f"{prefix}.identity_conv.bn")
    return names


def fixup() -> list[str]:
    """Fixup/imagenet/models/fixup_resnet_imagenet.py"""
    names = ["conv1.weight", "bias1", "bias2", *conv("fc", WITH_BIAS)]
    scalars = ("bias1a", "bias1b", "bias2a", "bias2b", "bias3a", "bias3b", "scale")
    for prefix in ("layer1.0", "layer2.0"):
        names += [f"{prefix}.{name}" for name in (*scalars, "conv1.weight", "conv2.weight", "conv3.weight")]
        names += [f"{prefix}.downsample.weight"]
    return names


@pytest.mark.parametrize(
    ("name", "format", "choices", "expected"),
    [
        ("resnetrs50", "timm", {}, resnetrs()),
        ("ecaresnet50d", "timm", {}, ecaresnet()),
        ("resnetv2_50d", "timm", {}, resnetv2d()),
        ("bit_r50x1", "timm", {"norm_groups": 8}, bit()),
        ("nf_seresnet50", "timm", {"shortcut": "D"}, nf_seresnet()),
        ("resnet18", "transformers", {}, transformers()),
        ("seresnet20_cifar", "pytorchcv", {}, pytorchcv(pre=False)),
        ("sepreact20_cifar", "pytorchcv", {}, pytorchcv(pre=True)),
        ("fixup_resnet50", "fixup", {}, fixup()),
    ],
)
def test_names_of_a_block_of_each_kind(name, format, choices, expected):
    model = tiny(name, **choices)
    names = name_map(model, format)
    assert sorted(names.values()) == sorted(expected)
    found = detect(expected, model.config, names)
    assert found == format


def test_skip_gain_of_nf_nets_is_one_variable():
    names = name_map(tiny("nf_gain_resnet50", shortcut="D"), "timm")
    assert names["params/stage2/block0/branch/gain"] == "stages.1.0.skipinit_gain"


def reduced(name: str) -> ResNetConfig:
    """The choices of a named network, with few blocks: their names differ in nothing but numbers."""
    config = create_model(name).config
    widths = {"widths": (16, 32), "stem_width": 16, "base_width": 64 if config.groups == 1 else 16, "norm_groups": 4}
    return dataclasses.replace(config, stage_sizes=(2, 1), num_classes=10, **widths)


def fitting(config: ResNetConfig) -> list[str]:
    """Return the formats that have names for such a network."""
    formats = []
    for format in FORMATS:
        with contextlib.suppress(UsageError):
            find_convention(config, format)
            formats.append(format)
    return formats


@pytest.mark.slow
def test_formats_cover_the_named_networks_one_to_one():
    kinds = {reduced(name): name for name in list_models()}  # equal but for size
    assert len(kinds) > 20
    formats = {config: fitting(config) for config in kinds}
    assert {format for found in formats.values() for format in found} == set(FORMATS)
    for config, found in formats.items():
        shapes = list(flat_shapes(ResNet(config))) if found else []
        for format in found:
            names = foreign_names(shapes, find_convention(config, format), format)
            assert len(set(names.values())) == len(shapes), (kinds[config], format)
    # these kinds no other library has under names of its own
    homeless = {name.partition("_")[0] for config, name in kinds.items() if not formats[config]}
    assert homeless == {"nf", "rezero", "skipinit", "fixup", "airbench94", "airbench96", "resnet"}


@pytest.mark.parametrize(
    ("path", "format", "expected"),
    [
        ("params/stage1/block11/branch/norm2/scale", "cifar", "layer1.11.bn2.weight"),
        ("batch_stats/stage4/block0/shortcut/norm/var", "torchvision", "layer4.0.downsample.1.running_var"),
        ("params/stage1/block0/branch/se/kernel", "torchvision", None),
        ("params/head/gain/kernel", "torchvision", None),
        ("batch_stats/head/kernel", "cifar", None),
        ("cache/head/kernel", "cifar", None),
        ("params/stage1/blockx/branch/conv1/kernel", "cifar", None),
    ],
)
def test_single_names(path, format, expected):
    assert foreign_name(path, FORMATS[format][0]) == expected


def test_what_a_format_does_not_have():
    path = "params/stage1/block0/branch/se/expand/bias"
    message = f"weight format 'cifar' has no name for {path}: no network of that format has such a variable"
    with pytest.raises(UsageError, match=message):
        foreign_names(["params/head/bias", path], FORMATS["cifar"][0], "cifar")


@pytest.mark.parametrize(
    ("choices", "format", "message"),
    [
        ({"shortcut": "D"}, "torchvision", r"shortcut 'D' \(need 'A' or 'A_end' or 'B' or 'C' or 'none'\)"),
        ({"order": "pre"}, "torchvision", r"order 'pre' \(need 'post'\)"),
        ({"weight_standardization": "standard"}, "cifar", "weight_standardization 'standard'"),
        ({"stem_pool": "zero_max"}, "transformers", "stem_pool 'zero_max'"),
        ({"stem": "deep"}, "cifar", "stem 'deep'"),
        ({"residual": "nf", "norm": "none"}, "timm", r"shortcut 'B' \(need 'D'\)"),
        ({"residual": "nf", "norm": "none"}, "torchvision", "order 'pre'"),
        ({"attention": "eca"}, "pytorchcv", r"attention 'eca' \(need 'none' or 'se'\)"),
        ({"residual": "rezero"}, "fixup", "residual 'rezero'"),
    ],
)
def test_networks_that_the_names_cannot_tell_apart_are_refused(choices, format, message):
    config = ResNetConfig((1, 1), (8, 16), **choices)
    with pytest.raises(UsageError, match=f"weight format '{format}' has no names for a network with .*{message}"):
        find_convention(config, format)


def test_no_format_at_all():
    model = tiny("rezero_resnet18")
    with pytest.raises(UsageError, match="no weight format fits this network:\n  weight format 'torchvision' has no"):
        detect(["conv1.weight"], model.config, flat_shapes(model))


def test_unknown_format():
    with pytest.raises(UsageError, match="unknown weight format 'torchvison'; did you mean 'torchvision'"):
        name_map(create_model("resnet18"), "torchvison")


def test_places_are_numbers_only():
    assert look_up({"conv{i}": "x"}, "conv12") == ("x", {"i": 12, "i0": 11})
    assert look_up({"conv{i}": "x"}, "conv") is None
    assert look_up({"conv": "x"}, "conv1") is None
