"""Predicted against measured moments, and the predictions against formulas that are exact away from the borders."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.depth import measure_moments, predict_gradients, predict_moments, sample_moments
from resnet_jax.depth.mean_field import gaussian_moments, weight_variance
from resnet_jax.depth.mean_field_backward import squared_slope
from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, create_model
from resnet_jax.models.activation import ACTIVATIONS, GAINS
from resnet_jax.models.block import Block
from resnet_jax.models.init import INITIALIZERS
from resnet_jax.models.plan import plan_stages
from resnet_jax.models.resnet import Stem
from tests.tools import initialize, random_variables

SLOW = pytest.mark.slow


def cifar(sizes, widths, **choices) -> ResNetConfig:
    return ResNetConfig(sizes, widths, **{"stem": "cifar", "num_classes": 10, **choices})


def images(seed, size, dims=2, batch=8):
    return jax.random.normal(jax.random.key(1000 + seed), (batch, *(size,) * dims, 3))


def measured(config, size, seeds=8, **kwargs):
    """Mean square and variance of every block, and the stem's two moments, averaged over draws of the weights."""
    draws = [
        sample_moments(config, jax.random.key(seed), images(seed, size, config.spatial_dims), **kwargs)
        for seed in range(seeds)
    ]
    stem = tuple(np.mean([draw.stem for draw in draws], axis=0))
    return np.mean([draw.mean_square for draw in draws], 0), np.mean([draw.variance for draw in draws], 0), stem


# ---- predicted against measured: one stage, an identity and a change of width -----------------------------------

# choices, relative tolerance of mean square and variance
RULES = {
    "nf": ({"residual": "nf", "norm": "none"}, 0.05),
    "nf, A, gelu": ({"residual": "nf", "norm": "none", "shortcut": "A", "activation": "gelu"}, 0.05),
    "nf, SE": ({"residual": "nf", "norm": "none", "attention": "se"}, 0.05),
    "zero_gamma, D": ({"residual": "zero_gamma", "shortcut": "D"}, 0.05),
    "skipinit": ({"residual": "skipinit", "norm": "none", "order": "pre"}, 0.1),
    "fixup": ({"residual": "fixup", "norm": "none"}, 0.1),
    "batch norm, post": ({}, 0.05),
    "batch norm, post, A, ECA": ({"attention": "eca", "shortcut": "A"}, 0.05),
    "batch norm, post, C, tanh": ({"shortcut": "C", "activation": "tanh"}, 0.05),
    "batch norm, pre, bottleneck, groups": (
        {"order": "pre", "block": "bottleneck", "groups": 4, "base_width": 16, "widths": (8,)},
        0.1,
    ),
    "layer norm, pre, A": ({"norm": "layer", "order": "pre", "shortcut": "A_end"}, 0.1),
    "standardized weights, 1-D": ({"weight_standardization": "standard", "norm": "none", "order": "pre",
                                   "spatial_dims": 1}, 0.1),
    "batch norm, pre, bottleneck, groups, C, tanh": (
        {"order": "pre", "block": "bottleneck", "groups": 4, "base_width": 16, "widths": (8,), "shortcut": "C",
         "activation": "tanh"}, 0.1,
    ),
    "layer norm, standardized weights, 1-D, A": (
        {"norm": "layer", "order": "pre", "shortcut": "A_end", "weight_standardization": "standard",
         "spatial_dims": 1}, 0.1,
    ),
    "no norm, pre": ({"norm": "none", "order": "pre", "stem_width": 32, "widths": (64,)}, 0.15),
    "no norm, post": ({"norm": "none", "shortcut": "A", "stem_width": 32, "widths": (64,)}, 0.15),
    "plain, no norm": ({"norm": "none", "shortcut": "none", "sizes": (2,), "stem_width": 32, "widths": (64,)}, 0.15),
    "plain, batch norm": ({"shortcut": "none"}, 0.05),
}  # fmt: skip


#: One of each formula; the others differ from these in what the closed forms below hold exactly.
QUICK = {"nf, SE", "zero_gamma, D", "batch norm, post, A, ECA", "batch norm, pre, bottleneck, groups, C, tanh",
         "layer norm, standardized weights, 1-D, A"}  # fmt: skip


@pytest.mark.parametrize("rule", [rule if rule in QUICK else pytest.param(rule, marks=SLOW) for rule in RULES])
def test_prediction_agrees_with_measurement(rule):
    choices, tolerance = RULES[rule]
    config = cifar(**{"sizes": (3,), "widths": (32,), "stem_width": 16, **choices})
    size = 144 if config.spatial_dims == 1 else 12
    predicted = predict_moments(config, size)
    square, variance, stem = measured(
        config, size, seeds=8 if config.norm != "none" or config.residual != "plain" else 24
    )
    np.testing.assert_allclose(stem[0], predicted.stem[0], rtol=0.05)
    np.testing.assert_allclose(square, predicted.mean_square, rtol=tolerance)
    np.testing.assert_allclose(variance, predicted.variance, rtol=tolerance)


# ---- depth: 20 to 1202 layers -----------------------------------------------------------------------------------

DEEP = {
    "nf": {"residual": "nf", "norm": "none", "shortcut": "A"},
    "nf_gain": {"residual": "nf_gain", "norm": "none", "shortcut": "A"},
    "zero_gamma": {"residual": "zero_gamma", "shortcut": "A"},
    "rezero": {"residual": "rezero", "norm": "none", "shortcut": "A"},
    "skipinit": {"residual": "skipinit", "norm": "none", "order": "pre", "shortcut": "A"},
    "fixup": {"residual": "fixup", "norm": "none", "shortcut": "A_end"},
    "batch norm, pre": {"order": "pre", "shortcut": "A"},
    "batch norm, post": {"shortcut": "A"},
}
# Option A has no weights, so that branches of zeros leave no scatter but the stem's, which is divided out: left
# is that of the 16 positions of the last stage. The others add up hundreds of branches.
TOLERANCE = {"nf": 0.08, "batch norm, pre": 0.15, "batch norm, post": 0.1}


#: Rules whose branches add up at the start: of the others 1,202 layers say no more than 110.
ADDING_UP = ("nf", "batch norm, pre", "batch norm, post")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "rule"), [*itertools.product((20, 110), DEEP), *((1202, rule) for rule in ADDING_UP)]
)
def test_prediction_holds_at_any_depth(rule, layers):
    check_depth(cifar(((layers - 2) // 6,) * 3, (16, 32, 64), **DEEP[rule]), rule)


def check_depth(config, rule):
    predicted = predict_moments(config, 16)
    square, variance, stem = measured(config, 16, seeds=4)
    assert len(square) == sum(config.stage_sizes)
    if rule in TOLERANCE:
        np.testing.assert_allclose(square, predicted.mean_square, rtol=TOLERANCE[rule])
        np.testing.assert_allclose(variance, predicted.variance, rtol=TOLERANCE[rule])
    else:
        np.testing.assert_allclose(square / stem[0], predicted.mean_square / predicted.stem[0], rtol=0.06)


# ---- stems ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "tolerance"),
    [
        ({"residual": "nf", "norm": "none"}, 0.06),
        pytest.param({}, 0.05, marks=SLOW),
        pytest.param({"residual": "fixup", "norm": "none"}, 0.001, marks=SLOW),
    ],
    ids=["nf", "batch norm, post", "fixup"],
)
def test_prediction_from_the_measured_output_of_a_max_pooling_stem(choices, tolerance):
    config = ResNetConfig((2,), (16,), num_classes=10, **choices)
    square, variance, stem = measured(config, 32)
    predicted = predict_moments(config, 32, stem=stem)
    np.testing.assert_allclose(square, predicted.mean_square, rtol=tolerance)
    np.testing.assert_allclose(variance, predicted.variance, rtol=2 * tolerance)


@pytest.mark.slow
def test_a_deep_stem_with_a_convolution_for_its_pool_is_predicted():
    config = ResNetConfig((1,), (16,), stem="deep", stem_pool="conv", norm="layer", num_classes=10)
    square, _, stem = measured(config, 24)
    predicted = predict_moments(config, (24, 24))
    np.testing.assert_allclose(stem, predicted.stem, rtol=0.05)
    np.testing.assert_allclose(square, predicted.mean_square, rtol=0.05)


def test_a_given_stem_may_be_a_map_over_positions():
    config = cifar((1,), (8,), residual="rezero", norm="none")
    row = np.broadcast_to(np.arange(1.0, 5.0), (4, 4))
    assert predict_moments(config, 4, stem=(row, 0.5)).mean_square == pytest.approx([2.5])


# ---- formulas that are exact where there is no border: a line so long that its ends do not matter --------------

LINE: dict = {"spatial_dims": 1, "shortcut": "A"}


def test_nf_variances_are_those_its_betas_divide_out():
    config = cifar((4, 3), (16, 32), residual="nf", norm="none", spatial_dims=1)
    predicted = predict_moments(config, 2**11)
    betas = [block.beta for stage in plan_stages(config) for block in stage]
    entering = np.append(predicted.stem[0], predicted.variance[:-1])
    np.testing.assert_allclose(entering, [1.0, 1.04, 1.08, 1.12, 1.16, 1.04, 1.08], rtol=2e-3)
    np.testing.assert_allclose(1.0 / np.square(betas), [1.0, 1.04, 1.08, 1.12, 1.16, 1.04, 1.08])


@pytest.mark.slow
def test_without_norm_every_block_doubles_even_six_hundred_times():
    config = cifar((600,), (16,), norm="none", order="pre", init="kaiming_normal_fan_in", **LINE)
    predicted = predict_moments(config, 2**11)
    growth = np.diff(np.log2(predicted.mean_square))
    assert growth[:20] == pytest.approx(1.0, abs=1e-3)
    assert np.isfinite(predicted.mean_square).all()
    assert predicted.mean_square[-1] > 1e170


def test_plain_relu_net_with_kaiming_init_keeps_its_variance():
    config = cifar((20,), (16,), norm="none", init="kaiming_normal_fan_in", shortcut="none", spatial_dims=1)
    predicted = predict_moments(config, 2**11)
    assert predicted.mean_square == pytest.approx(predicted.mean_square[0], rel=5e-3)
    half = predict_moments(dataclasses.replace(config, init="lecun_normal"), 2**11)
    assert half.mean_square[1:] / half.mean_square[:-1] == pytest.approx(0.25, rel=5e-3)


def test_pre_activation_batch_norm_adds_one_a_block():
    predicted = predict_moments(cifar((30,), (16,), order="pre", **LINE), 2**11)
    assert np.diff(predicted.mean_square) == pytest.approx(1.0, rel=1e-3)


def test_what_a_norm_adds_to_the_variance_is_in_the_prediction():
    """Each norm passes v / (v + eps) of a variance v, or 1 / (1 + eps) of it with the running averages of the start.

    Behind tanh, which is odd, channels have no mean that a norm would take away.
    """
    eps = 0.5
    config = cifar((6,), (16,), order="pre", norm_eps=eps, activation="tanh", **LINE)

    def activated(variance):  # behind a norm, and through a convolution of variance 2 / fan-in
        return 2.0 * gaussian_moments("tanh", variance / (variance + eps), np.zeros_like(variance))[0]

    def slope(variance):
        return 2.0 * squared_slope("tanh", variance / (variance + eps), np.zeros_like(variance)) / (variance + eps)

    square = predict_moments(config, 2**11).mean_square
    first = activated(square[:-1])
    np.testing.assert_allclose(square[1:], square[:-1] + activated(first), rtol=2e-3)
    back = predict_gradients(config, 2**11).squared_norm[1:]
    np.testing.assert_allclose(back[:-1] / back[1:], 1 + slope(square[:-1]) * slope(first), rtol=2e-3)
    relu = dataclasses.replace(config, activation="relu")
    frozen = predict_moments(relu, 2**11, train=False).mean_square
    np.testing.assert_allclose(frozen[1:] / frozen[:-1], 1 + (1 + eps) ** -2, rtol=2e-3)


def test_post_activation_batch_norm_is_a_reflected_random_walk():
    # Spitzer's identity (1956): with S_k a sum of k normals and M_n the walk reflected at 0,
    # n E[exp(u M_n)] = sum_k E[exp(u max(S_k, 0))] E[exp(u M_(n - k))]; its first two derivatives at u = 0:
    steps = 300
    first, second = np.zeros(steps + 1), np.zeros(steps + 1)
    k = np.arange(1, steps + 1)
    mean, square = np.sqrt(k / (2 * math.pi)), k / 2.0
    for n in k:
        first[n] = (mean[:n] + first[n - 1 :: -1][:n]).sum() / n
        second[n] = (square[:n] + 2 * mean[:n] * first[n - 1 :: -1][:n] + second[n - 1 :: -1][:n]).sum() / n
    predicted = predict_moments(cifar((steps - 1,), (16,), **LINE), 2**9)  # the stem is the first step
    np.testing.assert_allclose(predicted.mean_square, second[2:], rtol=0.01)
    np.testing.assert_allclose(predicted.mean, first[2:], rtol=0.01)


def test_a_zero_branch_leaves_the_stem_and_the_shortcuts():
    predicted = predict_moments(cifar((2, 2), (16, 32), residual="rezero", norm="none", **LINE), 2**11)
    assert predicted.mean_square / predicted.stem[0] == pytest.approx([1.0, 1.0, 0.5, 0.5], rel=1e-3)
    assert predicted.stage_starts == (0, 2)


def test_running_averages_change_nothing_at_init():
    config = cifar((3,), (16,), order="pre")
    free = predict_moments(dataclasses.replace(config, norm="none"), 8)
    for given, train in ((config, False), (dataclasses.replace(config, norm_scope="frozen"), True)):
        np.testing.assert_allclose(predict_moments(given, 8, train=train).mean_square, free.mean_square, rtol=1e-3)
    assert predict_moments(config, 8).mean_square[2] > 1.5 * free.mean_square[2]


# ---- the parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activated_moments_give_the_known_gains(activation):
    square, mean = gaussian_moments(activation, np.array([1.0]), np.array([0.0]))
    assert float((square - mean**2)[0]) == pytest.approx(
        GAINS[activation] ** -2, rel=2e-3
    )  # drawn at random by their authors


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu"])
def test_activated_moments_of_a_shifted_gaussian(activation):
    grid = np.linspace(-12.0, 12.0, 200_001)
    weights = np.exp(-0.5 * grid**2) / np.exp(-0.5 * grid**2).sum()
    means, std = np.array([-0.7, 0.0, 1.3]), 0.8
    square, mean = gaussian_moments(activation, std**2 + means**2, means)
    y = np.asarray(ACTIVATIONS[activation](jnp.asarray(means[:, None] + std * grid[None], jnp.float32)), np.float64)
    np.testing.assert_allclose(mean, y @ weights, rtol=1e-3)
    np.testing.assert_allclose(square, y**2 @ weights, rtol=1e-3)


def test_a_constant_is_activated_as_itself():
    square, mean = gaussian_moments("relu", np.array([4.0, 4.0, 0.0]), np.array([2.0, -2.0, 0.0]))
    assert square.tolist() == [4.0, 0.0, 0.0]
    assert mean.tolist() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name != "dirac"])
@pytest.mark.parametrize("features", [32, 256])
def test_weight_variance_is_the_initializer_s(name, features):
    shape = (3, 3, 16, features)
    weights = np.asarray(INITIALIZERS[name](jax.random.key(0), shape, jnp.float32))
    assert weight_variance(name, shape) == pytest.approx(float(np.square(weights).mean()), rel=0.05)


# ---- measuring --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [True, False])
def test_measured_moments_are_those_of_the_captured_activations(train):
    config = cifar((1, 1), (4, 8), shortcut="A", order="pre")
    dropping = dataclasses.replace(config, dropout=0.5, drop_path=0.5)
    model, x = ResNet(config), images(0, 8)
    variables = random_variables(model, (8, 8, 3))
    moments = measure_moments(ResNet(dropping), variables, x, train=train)

    @jax.jit
    def capture(variables):
        return model.apply(
            variables, x, train=train, mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, (Block, Stem)),
        )[1]["intermediates"]  # fmt: skip

    seen = capture(variables)
    outputs = [seen["stem"], seen["stage1"]["block0"], seen["stage2"]["block0"]]
    outputs = [np.asarray(y["__call__"][0], np.float64) for y in outputs]
    assert moments.stem == pytest.approx((np.square(outputs[0]).mean(), outputs[0].mean()), rel=1e-4)
    np.testing.assert_allclose(moments.mean_square, [np.square(y).mean() for y in outputs[1:]], rtol=1e-5)
    np.testing.assert_allclose(moments.variance, [y.var() for y in outputs[1:]], rtol=1e-5)
    assert moments.stage.tolist() == [0, 1]
    assert moments.stage_starts == (0, 1)


def test_a_built_network_is_predicted_like_blocks_drawn_one_by_one():
    config = create_model("nf_resnet20_cifar", stage_sizes=(1,), widths=(32,)).config
    x = images(0, 16)
    built = measure_moments(ResNet(config), initialize(ResNet(config), x), x)
    predicted = predict_moments(config, 16)
    np.testing.assert_allclose(built.mean_square, predicted.mean_square, rtol=0.2)
    drawn = sample_moments(config, jax.random.key(1), x)
    np.testing.assert_allclose(drawn.mean_square, predicted.mean_square, rtol=0.2)


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "size", "reason"),
    [
        (cifar((1,), (8,), activation="gelu"), 8, "activation gelu after the sum"),
        (cifar((1, 1), (8, 16), shortcut="D", order="pre"), 8, "shortcut D without a norm"),
        (cifar((1,), (8,), attention="se", norm="none"), 8, "attention se on a branch without norm"),
        (ResNetConfig((1,), (8,)), 32, "maximum in stem imagenet: pass stem="),
        (cifar((1,), (8,), init="dirac"), 8, "init dirac"),
        (cifar((1,), (8,)), (8,), r"image_size \(8,\) must give 2 positive sizes"),
        (cifar((1,), (8,)), 0, "image_size 0 must give 2 positive sizes"),
    ],
)
def test_what_has_no_closed_form_is_refused(config, size, reason):
    with pytest.raises(UsageError, match=reason):
        predict_moments(config, size)
