"""Exact sizes of every named network, against published and independently counted figures."""

from __future__ import annotations

import pytest

from resnet_jax.models import MODELS, Counts, count, create_model, list_models

# name: (params, batch-norm statistics, multiply-adds). Sources: timm 1.0.31 and torchvision 0.29 (ImageNet), the
# akamaster and pytorchcv implementations (CIFAR), and layer arithmetic for the stride in the 1x1.
ORACLE = {
    "resnet18": (11_689_512, 9_600, 1_814_073_344),
    "resnet34": (21_797_672, 17_024, 3_663_761_408),
    "resnet50": (25_557_032, 53_120, 4_089_184_256),
    "resnet50_v1": (25_557_032, 53_120, 3_857_973_248),
    "resnet101": (44_549_160, 105_344, 7_801_405_440),
    "resnet101_v1": (44_549_160, 105_344, 7_570_194_432),
    "resnet152": (60_192_808, 151_424, 11_513_626_624),
    "resnet152_v1": (60_192_808, 151_424, 11_282_415_616),
    "resnet200": (64_673_832, 176_000, 15_007_481_856),
    "resnet20_cifar": (269_722, 1_376, 40_551_040),
    "resnet32_cifar": (464_154, 2_272, 68_862_592),
    "resnet44_cifar": (658_586, 3_168, 97_174_144),
    "resnet56_cifar": (853_018, 4_064, 125_485_696),
    "resnet110_cifar": (1_727_962, 8_096, 252_887_680),
    "resnet1202_cifar": (19_421_274, 89_632, 2_829_238_912),
    "resnet20_cifar_b": (272_474, 1_376 + 192, 40_551_040 + 262_144),
    "resnet32_cifar_b": (466_906, 2_272 + 192, 68_862_592 + 262_144),
    "resnet44_cifar_b": (661_338, 3_168 + 192, 97_174_144 + 262_144),
    "resnet56_cifar_b": (855_770, 4_064 + 192, 125_485_696 + 262_144),
    "resnet110_cifar_b": (1_730_714, 8_096 + 192, 252_887_680 + 262_144),
    "resnet1202_cifar_b": (19_424_026, 89_632 + 192, 2_829_238_912 + 262_144),
}


def test_every_named_network_has_an_oracle():
    assert set(ORACLE) == set(MODELS)


@pytest.mark.parametrize(
    "name",
    # building 1,202 layers takes the better part of a minute; of the two, the quick run does one
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "resnet1202_cifar_b")) for name in list_models()],
)
def test_counts_of_named_networks(name):
    assert count(create_model(name), MODELS[name].input_shape) == Counts(*ORACLE[name])


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_cifar_counts_follow_their_closed_forms(depth):
    n = (depth - 2) // 6
    sizes = count(create_model(f"resnet{depth}_cifar"), (32, 32, 3))
    assert sizes == Counts(97_216 * n - 21_926, 448 * n + 32, 14_155_776 * n - 1_916_288)


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [
        ("resnet18", {"shortcut": "A"}, (11_515_688, 7_808, 1_794_805_760)),
        ("resnet18", {"shortcut": "C"}, (12_043_816, 11_648, 1_878_298_624)),
        ("resnet34", {"shortcut": "A"}, (21_623_848, 15_232, 3_644_493_824)),
        ("resnet34", {"shortcut": "C"}, (22_716_840, 22_784, 3_830_747_136)),
        ("resnet50", {"shortcut": "A"}, (22_780_456, 45_440, 3_729_522_688)),
        ("resnet50", {"shortcut": "C"}, (40_128_552, 75_648, 6_555_435_008)),
        ("resnet50", {"num_classes": 10}, (23_528_522, 53_120, 4_087_156_736)),
        ("resnet50", {"num_classes": 100}, (23_712_932, 53_120, 4_089_184_256 - 900 * 2048)),
    ],
)
def test_counts_under_choices(name, choices, expected):
    assert count(create_model(name, **choices), (224, 224, 3)) == Counts(*expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", (11_173_962, 9_600, 555_422_720)),
        ("resnet34", (21_282_122, 17_024, 1_159_402_496)),
        ("resnet50", (23_520_842, 53_120, 1_297_829_888)),
        ("resnet101", (42_512_970, 105_344, 2_509_983_744)),
    ],
)
def test_imagenet_networks_with_the_cifar_stem(name, expected):
    assert count(create_model(name, stem="cifar", num_classes=10), (32, 32, 3)) == Counts(*expected)


@pytest.mark.parametrize(
    ("side", "macs"), [(160, 2_087_321_600), (192, 3_004_841_984), (256, 5_340_348_416), (288, 6_758_334_464)]
)
def test_multiply_adds_by_image_size(side, macs):
    assert count(create_model("resnet50"), (side, side, 3)).macs == macs


def test_cifar_100_adds_a_wider_head():
    ten, hundred = (count(create_model("resnet20_cifar", num_classes=k), (32, 32, 3)).params for k in (10, 100))
    assert hundred - ten == 5_850
