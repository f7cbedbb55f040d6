"""What is known of published weights, and what is not claimed to be."""

from __future__ import annotations

from importlib import resources

import pytest

from resnet_jax.models import create_model
from resnet_jax.weights import known
from resnet_jax.weights.known import CIFAR10, HALF, IMAGENET, imagenet_wnids, known_of


def of(format: str, name: str, **choices):
    return known_of(format, name, create_model(name, **choices).config)


@pytest.mark.parametrize(
    ("format", "name", "normalization", "size", "crop"),
    [
        ("cifar", "resnet44_cifar", IMAGENET, 32, "none"),
        ("torchvision", "resnet50", IMAGENET, 224, "random_resized"),
        ("timm", "resnet50", IMAGENET, 224, "random_resized"),
        ("transformers", "resnet50", IMAGENET, 224, "random_resized"),
        ("torchvision", "resnet26", IMAGENET, 224, "random_resized"),  # timm's, whose names are torchvision's
        ("timm", "resnetv2_50", HALF, 224, "random_resized"),
        ("timm", "bit_r101x3", HALF, 448, "none"),
        ("timm", "resnetrs420", IMAGENET, 320, "none"),
    ],
)
def test_published_networks_bring_size_normalization_and_names(format, name, normalization, size, crop):
    found = of(format, name)
    assert (found.normalization, found.image_size, found.crop) == (normalization, size, crop)
    assert found.class_names == (CIFAR10 if format == "cifar" else imagenet_wnids())
    assert found.source


@pytest.mark.parametrize(
    ("format", "name", "choices"),
    [
        ("cifar", "resnet20_cifar", {"num_classes": 100}),  # trained by somebody else on something else
        ("cifar", "resnet20_cifar", {"in_channels": 1}),
        ("cifar", "resnet20_cifar_b", {}),  # akamaster's are of option A
        ("cifar", "resnet18", {"num_classes": 10, "stem": "cifar"}),
        ("torchvision", "resnet50", {"num_classes": 10}),
        ("torchvision", "resnet50", {"num_classes": 1001}),  # with a background class, whose place is not known
        ("torchvision", "resnet50", {"num_classes": 21843}),
        ("torchvision", "resnet50", {"activation": "silu"}),
        ("torchvision", "resnet50", {"stem": "cifar"}),
        ("torchvision", "resnet50_v1", {}),  # no such network there
        ("timm", "nf_resnet50", {}),  # deepmind's shortcut: not timm's network
        ("pytorchcv", "resnet20_cifar_b", {}),
        ("fixup", "fixup_resnet20_cifar", {}),
    ],
)
def test_nothing_is_claimed_of_others(format, name, choices):
    found = of(format, name, **choices)
    assert (found.normalization, found.class_names, found.source) == (None, None, "")
    assert found.image_size == (32 if create_model(name, **choices).config.stem == "cifar" else 224)


def test_what_only_changes_training_changes_nothing_known():
    choices = {"dtype": "bfloat16", "drop_path": 0.1, "execution": "unroll", "init": "xavier_uniform"}
    assert of("torchvision", "resnet50", **choices) == of("torchvision", "resnet50")
    assert of("timm", "bit_r50x1", ws_eps=1e-8).normalization == HALF
    assert of("timm", "bit_r50x1", num_classes=21843).normalization == HALF
    assert of("timm", "bit_r50x1", num_classes=21843).class_names is None


def test_weights_that_share_names_and_not_the_normalization_are_warned_of():
    assert "resnet34.ra4_e3600_r224_in1k" in of("torchvision", "resnet34").caution
    assert of("torchvision", "resnet50").caution == ""
    for name in ("resnet18d", "resnet50d"):  # most want ImageNet's mean, one 0.5
        assert of("timm", name).normalization is None
        assert f"{name}.ra4_e3600_r224_in1k wants mean and std 0.5" in of("timm", name).caution
        assert of("timm", name).class_names == imagenet_wnids()


def test_the_imagenet_classes_are_part_of_the_package(shared_data):
    assert resources.files("resnet_jax.weights").joinpath("imagenet_wnids.txt").is_file()
    assert imagenet_wnids() == tuple((shared_data / "imagenet_synsets.txt").read_text().split())
    assert len(set(imagenet_wnids())) == 1000


def test_every_network_that_is_known_has_a_name_here():
    for name in {*known._TIMM, *known._TRANSFORMERS, *known._AKAMASTER, *known._TIMM_SIZES}:
        create_model(name)
