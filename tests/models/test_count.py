"""Exact sizes of every named network, against published and independently counted figures."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from resnet_jax.models import MODELS, Counts, abstract_variables, count, create_model, list_models
from tests.models.covering import covering_names

# name: (params, batch-norm statistics, multiply-adds). Sources: timm 1.0.31 and torchvision 0.29 (ImageNet), the
# akamaster and pytorchcv implementations (CIFAR), and layer arithmetic for the stride in the 1x1.
ORACLE = {
    # layer arithmetic; 9.9 and 37 epochs of 50,000 images at 6 FLOPs a multiply-add are 0.35 and 5.0 PFLOPs, for which
    # the author has 0.36 and 4.91. The classifier has a bias besides
    "airbench94_cifar": (1_972_792 + 10, 2_304, 118_147_360),
    "airbench96_cifar": (9_918_776 + 10, 6_144, 451_967_264),
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

# name: (params, batch-norm statistics, multiply-adds) of the choices of a row; None where no source gives the figure.
# timm 1.0.31 (ImageNet), hongyi-zhang/Fixup, pytorchcv 0.0.74 (CIFAR) and the closed forms of their layers.
FAMILIES: dict[str, tuple[int, int | None, int | None]] = {
    "resnet26": (15_995_176, 30_848, 2_342_256_640),
    "resnet18d": (11_708_744, 9_728, 2_053_713_920),
    "resnet34d": (21_816_904, 17_152, 3_903_401_984),
    "resnet26d": (16_014_408, 30_976, 2_581_897_216),
    "resnet50d": (25_576_264, 53_248, 4_328_824_832),
    "resnet101d": (44_568_392, 105_472, 8_041_046_016),
    "resnet152d": (60_212_040, 151_552, 11_753_267_200),
    "resnet200d": (64_693_064, 176_128, 15_247_122_432),
    "resnet50c": (25_576_264, 53_248, None),
    "resnet26t": (16_011_872, 30_960, 2_550_286_336),
    "resnet50t": (25_573_728, 53_232, 4_297_213_952),
    "resnet50s": (25_680_808, 53_504, 5_444_337_664),
    "resnext50_32x4d": (25_028_904, 68_224, 4_230_479_872),
    "resnext50d_32x4d": (25_048_136, 68_352, 4_470_120_448),
    "resnext101_32x4d": (44_177_704, 137_856, 7_969_996_800),
    "resnext101_32x8d": (88_791_336, 202_880, 16_414_015_488),
    "resnext101_64x4d": (83_455_272, 202_880, 15_460_270_080),
    "resnext101_32x16d": (194_026_792, 332_928, 36_163_289_088),
    "wide_resnet50_2": (68_883_240, 68_224, 11_398_021_120),
    "wide_resnet101_2": (126_886_696, 137_856, 22_753_050_624),
    "seresnet18": (11_779_624, 9_600, 1_814_161_408),
    "seresnet34": (21_960_416, 17_024, 3_663_920_128),
    "seresnet50": (28_088_024, 53_120, 4_091_699_200),
    "seresnet101": (49_326_872, 105_344, 7_806_148_608),
    "seresnet152": (66_821_848, 151_424, 11_520_204_800),
    "seresnext50_32x4d": (27_559_896, 68_224, 4_232_994_816),
    "seresnext101_32x4d": (48_955_416, 137_856, 7_974_739_968),
    "seresnext101_32x8d": (93_569_048, 202_880, 16_418_758_656),
    "ecaresnet26t": (16_011_916, 30_960, 2_550_332_928),
    "ecaresnet50t": (25_573_814, 53_232, 4_297_301_760),
    "ecaresnet50": (25_557_032 + 86, 53_120, 4_089_184_256 + 87_808),
    "ecaresnet50d": (25_576_350, 53_248, 4_328_912_640),
    "ecaresnet101d": (44_568_563, 105_472, 8_041_220_864),
    "resnetrs50": (35_691_912, 53_376, 4_454_490_112),
    "resnetrs101": (63_618_696, 105_600, 8_175_624_192),
    "resnetrs152": (86_621_576, 151_680, 11_895_185_408),
    "resnetrs200": (93_209_992, 176_256, 15_391_137_792),
    "resnetrs270": (129_861_448, 243_072, 20_643_618_816),
    "resnetrs350": (163_956_168, 312_192, 26_332_012_544),
    "resnetrs420": (191_891_656, 370_560, 31_363_342_336),
    "resnetv2_18": (11_687_720, 7_808, 1_814_073_344),
    "resnetv2_34": (21_795_880, 15_232, 3_663_761_408),
    "resnetv2_50": (25_549_352, 45_440, 4_089_184_256),
    "resnetv2_101": (44_541_480, 97_664, 7_801_405_440),
    "resnetv2_152": (60_185_128, 143_744, 11_513_626_624),
    "resnetv2_200": (64_666_280 - 128, None, 15_007_481_856),  # pytorchcv has a norm of 64 channels after the stem
    "resnetv2_18d": (11_706_952, 7_936, 2_053_713_920),
    "resnetv2_34d": (21_815_112, 15_360, 3_903_401_984),
    "resnetv2_50d": (25_568_584, 45_568, 4_328_824_832),
    "resnetv2_50t": (25_566_048, 45_552, 4_297_213_952),
    "bit_r50x1": (25_549_352, 0, 4_089_184_256),
    "bit_r50x3": (217_319_080, 0, 36_082_286_592),
    "bit_r101x1": (44_541_480, 0, 7_801_405_440),
    "bit_r101x3": (387_934_888, 0, 69_492_277_248),
    "bit_r152x2": (236_335_208, 0, 45_814_382_592),
    "bit_r152x4": (936_533_224, 0, 182_777_282_560),
    "nf_resnet26": (15_995_176, 0, 2_342_256_640),
    "nf_resnet50": (25_557_032, 0, 4_089_184_256),
    "nf_resnet101": (44_549_160, 0, 7_801_405_440),
    "nf_resnet26_timm": (15_995_176, 0, 2_342_256_640),
    "nf_resnet50_timm": (25_557_032, 0, 4_089_184_256),
    "nf_resnet101_timm": (44_549_160, 0, 7_801_405_440),
    "nf_gain_resnet50": (25_557_048, 0, 4_089_184_256),
    "nf_seresnet26": (17_395_976, 0, 2_343_649_280),
    "nf_seresnet50": (28_088_024, 0, 4_091_699_200),
    "nf_seresnet101": (49_326_872, 0, 7_806_148_608),
    "nf_ecaresnet50": (25_557_118, 0, 4_089_272_064),
    "fixup_resnet18": (11_679_954, 0, 1_814_073_344),
    "fixup_resnet34": (21_780_730, 0, 3_663_761_408),
    "fixup_resnet50": (25_504_026, 0, 4_089_184_256),
    "fixup_resnet101": (44_444_049, 0, 7_801_405_440),
    "fixup_resnet152": (60_041_736, 0, 11_513_626_624),
    # without norm: minus a scale and a bias per statistic pair; SkipInit has a bias per convolution in their place
    "rezero_resnet18": (11_689_512 - 9_600 + 8, 0, 1_814_073_344),
    "rezero_resnet50": (25_557_032 - 53_120 + 16, 0, 4_089_184_256),
    "skipinit_resnet18": (11_689_512 - 9_600 // 2 + 8, 0, 1_814_073_344),
    "skipinit_resnet50": (25_557_032 - 53_120 // 2 + 16, 0, 4_089_184_256),
    "plain18": (11_515_688, 7_808, 1_794_805_760),  # no skip: the parameters of option A
    "plain34": (21_623_848, 15_232, 3_644_493_824),
    "resnet164_cifar": (1_704_154, 25_120, 247_646_720),
    "resnet1001_cifar": (10_328_602, 150_112, 1_490_995_712),
    "preact20_cifar": (272_282, 1_376, 40_551_040 + 262_144),
    "preact56_cifar": (855_578, 4_064, 125_485_696 + 262_144),
    "preact110_cifar": (1_730_522, 8_096, 252_887_680 + 262_144),
    "preact1202_cifar": (19_423_834, 89_632, 2_829_238_912 + 262_144),
    "preact164_cifar": (1_703_258, 24_224, 244_500_992),
    "preact1001_cifar": (10_327_706, 149_216, 1_487_849_984),
    "wrn10_1_cifar": (77_850, 480, 12_501_632),
    "wrn16_1_cifar": (175_066, 928, 26_657_408),
    "wrn16_2_cifar": (691_674, 1_824, 101_106_944),
    "wrn16_4_cifar": (2_748_890, 3_616, 392_612_352),
    "wrn16_8_cifar": (10_961_370, 7_200, 1_548_145_664),
    "wrn28_2_cifar": (1_467_610, 3_616, 214_353_152),
    "wrn28_10_cifar": (36_479_194, 17_952, 5_243_328_768),
    "wrn40_1_cifar": (563_930, 2_720, 83_280_512),
    "wrn40_2_cifar": (2_243_546, 5_408, 327_599_360),
    "wrn40_4_cifar": (8_949_210, 10_784, 1_298_582_016),
    "resnext29_32x4d_cifar": (4_775_754, 25_216, 774_055_936),
    "resnext29_8x64d_cifar": (34_426_698, 57_472, 5_387_266_048),
    "resnext29_16x64d_cifar": (68_155_210, 100_480, 10_688_866_304),
    "seresnet20_cifar": (274_847, 1_568, None),
    "seresnet56_cifar": (862_889, 4_256, None),
    "seresnet110_cifar": (1_744_952, 8_288, None),
    # pytorchcv's has a norm after the stem (32) and none before the pool (128): 96 fewer, and not the paper's order
    "sepreact20_cifar": (274_559 + 96, 1_376, None),
    "sepreact56_cifar": (862_601 + 96, 4_064, None),
    "sepreact110_cifar": (1_744_664 + 96, 8_096, None),
}

for depth, params, stats, macs, fixup, rezero in (
    (20, 269_722, 1_376, 40_551_040, 268_393, 268_355),
    (32, 464_154, 2_272, 68_862_592, 461_959, 461_897),
    (44, 658_586, 3_168, 97_174_144, 655_525, 655_439),
    (56, 853_018, 4_064, 125_485_696, 849_091, 848_981),
    (110, 1_727_962, 8_096, 252_887_680, 1_720_138, 1_719_920),
    (1202, 19_421_274, 89_632, 2_829_238_912, 19_334_644, 19_332_242),
):
    n, projections = (depth - 2) // 6, 16 * 32 + 32 * 64
    FAMILIES[f"fixup_resnet{depth}_cifar"] = (fixup, 0, macs)
    FAMILIES[f"rezero_resnet{depth}_cifar"] = (rezero, 0, macs)
    # a bias per convolution (half as many as statistics, and the projections'), and a scalar per block
    biases = stats // 2 + 32 + 64
    FAMILIES[f"skipinit_resnet{depth}_cifar"] = (rezero + biases + projections, 0, macs + 262_144)
    # a gain besides, and no scalar
    FAMILIES[f"nf_resnet{depth}_cifar"] = (rezero - 3 * n + 2 * biases + projections, 0, macs + 262_144)
    if depth < 1202:
        FAMILIES[f"plain{depth}_cifar"] = (params, stats, macs)


# Keras counts 506,818 parameters of hfawaz/dl-4-tsc's network for one dimension and two classes, 2,560 of them
# statistics. Its convolutions, with their biases: 8, 5 and 3 taps and a 1x1 where the width grows.
TAPS = (1, 64), (64, 128), (128, 128)
_KERNELS = sum(8 * i * o + 5 * o * o + 3 * o * o + (i != o) * i * o for i, o in TAPS)
_BIASES = sum(3 * o + (i != o) * o for i, o in TAPS)
_HEAD = 128 * 2 + 2
_MACS = 150 * _KERNELS + 256
# with a stem of 3 taps: the first block's 8 taps and its 1x1 see 64 channels, and the first skip is the identity
_STEMMED = _KERNELS + 3 * 64 + 8 * 63 * 64 - 64
ORACLE |= {"resnet_ts": (506_818 - 2_560, 2_560, _MACS)}
#: Characters: a stem of 3 taps over 275 symbols, blocks of two of 3, norms, a 1x1 with a norm from stage 2 on.
for depth, sizes in {9: (1, 1, 1, 1), 17: (2, 2, 2, 2), 29: (5, 5, 2, 2)}.items():
    widths, before = (64, 128, 256, 512), (64, 64, 128, 256)
    kernels = 3 * 275 * 64 + sum(
        3 * o * (i + o) + (blocks - 1) * 6 * o * o + (i != o) * i * o
        for i, o, blocks in zip(before, widths, sizes, strict=True)
    )
    norms = 64 + sum(2 * o * blocks + (o != 64) * o for o, blocks in zip(widths, sizes, strict=True))
    FAMILIES[f"vdcnn{depth}"] = (kernels + 2 * norms + 5130, 2 * norms, None)
FAMILIES |= {
    # a scalar before and after each convolution, one that multiplies a block, and one before the classifier
    "fixup_resnet_ts": (_KERNELS + 3 * 7 + 1 + _HEAD, 0, _MACS),
    "skipinit_resnet_ts": (_STEMMED + _BIASES + 3 + _HEAD, 0, 150 * _STEMMED + 256),
    "nf_resnet_ts": (_STEMMED + 2 * _BIASES + _HEAD, 0, 150 * _STEMMED + 256),
}


def test_the_time_series_network_has_what_keras_counts():
    norms = 2 * (4 * 64 + 4 * 128 + 4 * 128)
    assert (ORACLE["resnet_ts"][0], ORACLE["resnet_ts"][1]) == (_KERNELS + _BIASES + norms + _HEAD, norms)


def test_every_named_network_has_an_oracle():
    assert set(ORACLE) | set(FAMILIES) == set(MODELS)
    assert not set(ORACLE) & set(FAMILIES)


_QUICK = covering_names()


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in list_models()]
)
def test_counts_of_named_networks(name):
    counted = count(create_model(name), MODELS[name].input_shape)
    for got, expected in zip(dataclasses.astuple(counted), ORACLE.get(name) or FAMILIES[name], strict=True):
        assert expected in (got, None)


@pytest.mark.parametrize("name", ["resnet20_cifar", "resnext50_32x4d", "nf_seresnet26", "fixup_resnet20_cifar"])
def test_condensed_counting_has_every_variable_of_the_whole_network(name):
    """Only two blocks per stage are traced; the whole network must agree, leaf by leaf."""
    model, shape = create_model(name), MODELS[name].input_shape
    whole = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), whole,
                                     abstract_variables(model, shape)))  # fmt: skip


class Someones(nn.Module):
    """Not one of ours."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3)(x)


def test_other_modules_are_counted_whole():
    assert count(Someones(), (5,)) == Counts(18, 0, 0)


@pytest.mark.parametrize(
    ("name", "choices", "params"),
    [
        ("resnet18", {"attention": "se", "se_divisor": 1}, 11_778_592),
        ("resnet34", {"attention": "se", "se_divisor": 1}, 21_958_868),
        ("bit_r50x1", {"num_classes": 21_843}, 68_256_659),
        ("preact164_cifar", {"num_classes": 100}, 1_726_388),
        ("preact1001_cifar", {"num_classes": 100}, 10_350_836),
        ("wrn16_4_cifar", {"num_classes": 100}, 2_772_020),
        ("wrn28_10_cifar", {"num_classes": 100}, 36_536_884),
        ("resnet20_cifar", {"shortcut": "C"}, 283_962),
        ("resnet20_cifar", {"norm": "none"}, 268_346),
    ],
)
def test_parameters_under_choices(name, choices, params):
    assert count(create_model(name, **choices), MODELS[name].input_shape).params == params


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
