"""Every choice does what its definition says, and those that do not go together are refused with the reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, create_model
from resnet_jax.models.activation import ACTIVATIONS, GAINS
from resnet_jax.models.attention import eca_kernel_size, hidden_channels
from resnet_jax.models.plan import plan_stages
from tests.tools import initialize, paths, random_variables

TINY = ResNetConfig((2, 2), (8, 16), stem="cifar", shortcut="A", num_classes=5, norm_groups=4)
NORM_FREE = {"norm": "none"}
NF = {"norm": "none", "residual": "nf", "shortcut": "B"}
FIXUP = {"norm": "none", "residual": "fixup"}


def build(**choices):
    model = ResNet(dataclasses.replace(TINY, **choices))
    config = model.config
    shape = (8,) * config.spatial_dims + (config.in_channels,)
    x = np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)
    return model, random_variables(model, shape), jnp.asarray(x)


def captured(model, variables, x, *, train=False, **apply):
    def run(v, x):
        mutable = ["intermediates", "batch_stats"]
        return model.apply(v, x, train=train, capture_intermediates=True, mutable=mutable, **apply)[1]

    return jax.jit(run)(variables, x)["intermediates"]


def out(tree, *path):
    for name in path:
        tree = tree[name]
    return tree["__call__"][0]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"residual": "zero_gamma", "norm": "none"}, "needs a norm with a scale"),
        ({"residual": "zero_gamma", "order": "pre"}, "cannot learn"),
        ({"residual": "fixup"}, "replaces normalization, and norm is batch"),
        ({**FIXUP, "order": "pre"}, "defined for order post"),
        ({**FIXUP, "conv_bias": True}, "scalar biases"),
        ({**FIXUP, "weight_standardization": "scaled"}, "scaled initial weights"),
        ({**FIXUP, "stem": "deep"}, "stems of one convolution"),
        ({"residual": "nf"}, "replaces normalization, and norm is batch"),
        ({**NF, "order": "post"}, "defined for order pre"),
        ({**NF, "weight_standardization": "none"}, "needs weight_standardization scaled"),
        ({"shortcut": "none", "residual": "rezero"}, "no skip that residual rezero could add to"),
        ({"shortcut": "none", "drop_path": 0.1}, "drop the signal itself"),
        ({"groups": 2}, "inner 3x3 of block bottleneck"),
        ({"block": "bottleneck", "base_width": 4}, "leaves no channel of width 8"),
        ({"stem_pool": "conv"}, "does not pool"),
        ({"stem": "whiten", "stem_pool": "conv"}, "stem whiten does not pool"),
        ({**FIXUP, "stem": "whiten"}, "stems of one convolution"),
        ({**FIXUP, "transition": "conv_pool"}, "not in a block"),
        ({**NF, "transition": "conv_pool"}, "not in a block"),
        ({"transition": "conv_pool", "output_stride": 8}, "conv_pool has no stride"),
        ({**FIXUP, "block": "single"}, "block single has one layer"),
        ({"norm": "group", "norm_scope": "ghost", "ghost_size": 2}, "applies to norm batch, and norm is group"),
        ({"norm_scope": "ghost"}, "must be set together"),
        ({"ghost_size": 2}, "must be set together"),
        ({"norm_scope": "device_group"}, "device_group and norm_group_devices must be set together"),
        ({"norm_group_devices": 2}, "device_group and norm_group_devices must be set together, got global and 2"),
        ({"spatial_dims": 4}, "spatial_dims must be 1, 2 or 3"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"groups": 0}, "groups must be 1 or more"),
        ({"ghost_size": 0}, "ghost_size must be 1 or more"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"order": "both"}, "unknown order 'both'"),
        ({"residual": "fixup", "order": "pre"}, "norm is batch.*; .*order post"),  # every reason, not the first
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(choices, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(TINY, **choices)


def test_the_residual_rule_brings_its_own_defaults():
    plain, nf = TINY, dataclasses.replace(TINY, **NF)
    assert (plain.is_pre, plain.standardizes, plain.has_conv_bias) == (False, "none", False)
    assert (nf.is_pre, nf.standardizes, nf.has_conv_bias) == (True, "scaled", True)
    assert dataclasses.replace(nf, residual="plain", norm="batch").standardizes == "none"  # nothing is left behind
    skipinit = dataclasses.replace(TINY, residual="skipinit", norm="none")
    assert skipinit.has_conv_bias
    assert skipinit.head_kernel_init == "zeros"
    assert not dataclasses.replace(skipinit, norm="batch").has_conv_bias


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_gains_give_unit_variance_to_a_normal_input(name):
    def moment(power):
        z = np.linspace(-8, 8, 20_001)
        values = np.asarray(ACTIVATIONS[name](jnp.asarray(z, jnp.float32)), np.float64)
        return np.trapezoid(values**power * np.exp(-z * z / 2) / np.sqrt(2 * np.pi), z)

    std = np.sqrt(moment(2) - moment(1) ** 2)
    assert GAINS[name] * std == pytest.approx(1.0, abs=2e-3)  # the published digits are themselves sampled


def test_gelu_is_the_tanh_form_and_gelu_erf_pytorchs_default():
    """Against torch.nn.GELU(approximate="tanh") and torch.nn.GELU() (tests/reference); and by the network's choice."""
    stored = np.load(Path(__file__).parents[1] / "reference" / "torch.npz")
    x = jnp.asarray(stored["gelu/x"])
    for name, theirs in (("gelu", "tanh"), ("gelu_erf", "erf")):
        np.testing.assert_allclose(ACTIVATIONS[name](x), stored[f"gelu/{theirs}"], rtol=1e-5, atol=3e-6)
    assert np.abs(ACTIVATIONS["gelu"](x) - stored["gelu/erf"]).max() > 4e-4
    assert ResNetConfig((1,), (8,), activation="gelu_erf").activation == "gelu_erf"


def test_relu_gain_is_its_closed_form():
    assert GAINS["relu"] == pytest.approx(np.sqrt(2 / (1 - 1 / np.pi)), rel=1e-3)


def test_nf_betas_are_those_of_the_published_network():
    """DeepMind's and timm's NF-ResNet-50 agree on them."""
    stages = plan_stages(create_model("nf_resnet50").config)
    series = [1, 0.980581, 0.962250, 0.944911, 0.928477, 0.912871]
    expected = [
        [1, 0.980581, 0.962250],
        [0.944911, 0.980581, 0.962250, 0.944911],
        [0.928477, *series[1:]],
        [0.898027, 0.980581, 0.962250],
    ]
    for blocks, betas in zip(stages, expected, strict=True):
        np.testing.assert_allclose([block.beta for block in blocks], betas, atol=1e-6)


@pytest.mark.parametrize("choices", [{}, {"order": "pre"}, {**NF}, FIXUP])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_drop_rates_rise_linearly_to_the_last_block(choices, block):
    config = dataclasses.replace(TINY, drop_path=0.3, block=block, **choices)
    rates = [block.drop_rate for stage in plan_stages(config) for block in stage]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3])


def test_preactivation_projects_what_the_branch_sees_and_keeps_the_identity_raw():
    model, variables, x = build(order="pre", shortcut="B")
    inside = captured(model, variables, x)
    stem = out(inside, "stem")
    np.testing.assert_allclose(stem, out(inside, "stem", "conv"))  # no norm, no activation before the first split
    block0, block1 = inside["stage2"]["block0"], inside["stage2"]["block1"]
    seen = out(block0, "preact")
    np.testing.assert_allclose(seen, jax.nn.relu(out(block0, "preact", "norm")), rtol=1e-6)
    kernel = variables["params"]["stage2"]["block0"]["shortcut"]["conv"]["kernel"]
    np.testing.assert_allclose(
        out(block0, "shortcut"), ops.conv(seen, kernel, strides=(2, 2), padding=(0, 0)), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(out(block1, "shortcut"), out(block0))
    np.testing.assert_allclose(out(block1), out(block0) + out(block1, "branch"), rtol=1e-6, atol=1e-6)
    pooled = jnp.mean(jax.nn.relu(out(inside, "norm")), axis=(1, 2))
    head = variables["params"]["head"]
    np.testing.assert_allclose(out(inside), pooled @ head["kernel"] + head["bias"][None], rtol=1e-4, atol=1e-5)


def test_plain_nets_add_nothing():
    model, variables, x = build(shortcut="none")
    inside = captured(model, variables, x)
    assert "shortcut" not in inside["stage1"]["block0"]
    branch = jax.nn.relu(out(inside, "stage1", "block0", "branch"))
    np.testing.assert_allclose(out(inside, "stage1", "block0"), branch, rtol=1e-6, atol=1e-7)


def test_shortcut_d_takes_the_mean_instead_of_striding():
    model, variables, x = build(shortcut="D")
    inside = captured(model, variables, x)
    before, after = out(inside, "stage1"), out(inside, "stage2", "block0", "shortcut", "conv")
    mean = np.asarray(before).reshape(4, 4, 2, 4, 2, 8).mean(axis=(2, 4))
    kernel = variables["params"]["stage2"]["block0"]["shortcut"]["conv"]["kernel"]
    np.testing.assert_allclose(after, mean @ np.asarray(kernel)[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [7, 8])
def test_mean_pool_counts_what_there_is_at_an_odd_edge(size):
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    y = np.asarray(ops.mean_pool_2(jnp.asarray(x)))
    for i in range(-(-size // 2)):
        for j in range(-(-size // 2)):
            np.testing.assert_allclose(y[:, i, j], x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)), rtol=1e-5)
    half = ops.mean_pool_2(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), y, atol=0.05)


@pytest.mark.parametrize(
    ("stem", "pool", "convs", "channels"),
    [
        ("deep", "max", [4, 4, 8], 8),
        ("deep_tiered", "max", [3, 4, 8], 8),
        ("deep_wide", "conv", [8, 8, 16], 16),
        ("imagenet", "zero_max", [8], 8),
    ],
)
def test_stems(stem, pool, convs, channels):
    model, variables, x = build(stem=stem, stem_pool=pool, shortcut="B")
    params = variables["params"]["stem"]
    names = ["conv"] if len(convs) == 1 else ["conv1", "conv2", "conv3"]
    assert [params[name]["kernel"].shape[-1] for name in names] == convs
    assert ("pool_conv" in params) == (pool == "conv")
    assert out(captured(model, variables, x), "stem").shape == (4, 2, 2, channels)


def test_zero_padding_wins_over_negative_numbers_in_bit_only():
    model, variables, _ = build(stem="imagenet", stem_pool="zero_max", order="pre")
    variables["params"]["stem"]["conv"]["kernel"] = -jnp.ones((7, 7, 3, 8))
    corner = out(captured(model, variables, jnp.ones((1, 8, 8, 3))), "stem")
    assert corner[0, 0, 0, 0] == 0
    assert (corner[0, 1, 1] < 0).all()


@pytest.mark.parametrize("attention", ["se", "eca"])
@pytest.mark.parametrize("choices", [{}, NF])
def test_attention_weights_channels_by_its_formula(attention, choices):
    model, variables, x = build(attention=attention, se_divisor=1, se_ratio=0.25, **choices)
    branch = captured(model, variables, x)["stage1"]["block1"]["branch"]
    params = variables["params"]["stage1"]["block1"]["branch"]
    before = np.asarray(out(branch, "conv2" if choices else "norm2"))
    pooled = before.mean(axis=(1, 2))
    if attention == "se":
        reduce, expand = params["se"]["reduce"], params["se"]["expand"]
        hidden = np.maximum(pooled @ reduce["kernel"] + reduce["bias"], 0)
        score = hidden @ expand["kernel"] + expand["bias"]
    else:
        taps = np.asarray(params["eca"]["conv"]["kernel"])[:, 0, 0]
        score = np.stack([np.convolve(row, taps[::-1], mode="same") for row in pooled])
    expected = before / (1 + np.exp(-score))[:, None, None, :]
    np.testing.assert_allclose(out(branch, attention), expected, rtol=1e-4, atol=1e-5)
    factor = 2 * 0.2 if choices else 1.0  # NF doubles it, and multiplies the branch by alpha
    np.testing.assert_allclose(out(branch), factor * expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 4])
def test_grouped_and_wide_bottlenecks(groups):
    _model, variables, _ = build(block="bottleneck", groups=groups, base_width=16, shortcut="B")
    kernel = variables["params"]["stage2"]["block0"]["branch"]["conv2"]["kernel"]
    inner = int(16 * 16 / 64) * groups
    assert kernel.shape == (3, 3, inner // groups, inner)


def test_weight_standardization_is_the_papers():
    w = np.random.default_rng(0).normal(1.0, 2.0, size=(3, 3, 4, 5)).astype(np.float32)
    flat = w.reshape(-1, 5).astype(np.float64)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-3)
    np.testing.assert_allclose(ops.standardize(jnp.asarray(w), 1e-3).reshape(-1, 5), expected, rtol=1e-4, atol=1e-5)
    gain = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0])
    scaled = ops.scaled_standardize(jnp.asarray(w), gain, 1e-3).reshape(-1, 5)
    np.testing.assert_allclose(scaled, expected * np.asarray(gain) / 6.0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choices", [{"weight_standardization": "standard"}, NF])
def test_standardized_convolutions_do_not_see_the_scale_of_their_kernels(choices):
    model, variables, x = build(ws_eps=1e-12, **choices)
    scaled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 3.0 * leaf + 1.0 if "conv" in str(path) and "kernel" in str(path) else leaf, variables
    )
    apply = jax.jit(lambda v: model.apply(v, x, train=False))
    expected = apply(variables)
    np.testing.assert_allclose(apply(scaled), expected, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("choices", [FIXUP, {"norm": "none", "residual": "skipinit"}])
def test_logits_are_zero_at_first(choices):
    model, _, x = build(**choices)
    logits = model.apply(initialize(model, x), x, train=False)
    np.testing.assert_array_equal(logits, 0)


@pytest.mark.parametrize(
    "choices",
    [
        FIXUP,
        pytest.param({"residual": "rezero", "norm": "none"}, marks=pytest.mark.slow),
        pytest.param({"residual": "skipinit", "norm": "none"}, marks=pytest.mark.slow),
        {"residual": "skipinit", "order": "pre"},
        {"residual": "nf_gain", "norm": "none"},
        {"residual": "zero_gamma", "norm": "group"},
    ],
)
@pytest.mark.slow
def test_silent_branches_at_first(choices):
    model, _, x = build(**choices)
    inside = captured(model, initialize(model, x), x)
    for stage in ("stage1", "stage2"):
        for block in ("block0", "block1"):
            np.testing.assert_array_equal(out(inside, stage, block, "branch"), 0)


@pytest.mark.parametrize(
    ("block", "power"), [("basic", -1 / 2), pytest.param("bottleneck", -1 / 4, marks=pytest.mark.slow)]
)
def test_fixup_initialization(block, power):
    """Zhang et al. 2019, section 3.1: L^(-1 / (2m - 2)), last convolution of the branch and classifier zero."""
    config = ResNetConfig((8, 8), (64, 64), block=block, stem="cifar", shortcut="B", **FIXUP)
    variables = initialize(ResNet(config), jnp.zeros((1, 4, 4, 3)))["params"]
    branch = variables["stage1"]["block1"]["branch"]
    last = "conv2" if block == "basic" else "conv3"
    for name in ("conv1",) if block == "basic" else ("conv1", "conv2"):
        kernel = branch[name]["kernel"]
        std = np.sqrt(2 / (kernel.shape[0] ** 2 * kernel.shape[-1])) * 16**power
        np.testing.assert_allclose(kernel.std(), std, rtol=0.05)
    np.testing.assert_array_equal(branch[last]["kernel"], 0)
    np.testing.assert_array_equal(variables["head"]["kernel"], 0)
    scalars = [path for path in paths(variables["stage1"]["block1"]) if "conv" not in path]
    middle = ["branch/bias3a", "branch/bias3b"] if block == "bottleneck" else []
    assert sorted(scalars) == sorted(
        ["bias1a", "branch/bias1b", "branch/bias2a", "branch/bias2b", "branch/scale", *middle]
    )
    if block == "bottleneck":
        projection = variables["stage1"]["block0"]["shortcut"]["conv"]["kernel"]
        np.testing.assert_allclose(projection.std(), np.sqrt(2 / 256), rtol=0.05)


def test_fixup_forward_is_its_formula():
    model, variables, x = build(**FIXUP)
    inside = captured(model, variables, x)
    params = variables["params"]["stage2"]["block0"]
    source = np.asarray(out(inside, "stage1"))
    b = {name: np.asarray(params["branch"][name]) for name in ("bias1b", "bias2a", "scale", "bias2b")}

    def conv(x, name, stride=1):
        return ops.conv(jnp.asarray(x), params["branch"][name]["kernel"], strides=(stride,) * 2, padding=(1, 1))

    shifted = source + params["bias1a"]
    inner = conv(shifted, "conv1", 2)
    branch = conv(jax.nn.relu(inner + b["bias1b"]) + b["bias2a"], "conv2") * b["scale"] + b["bias2b"]
    skip = ops.subsample_and_pad(jnp.asarray(shifted), stride=2, features=16)
    np.testing.assert_allclose(out(inside, "stage2", "block0"), jax.nn.relu(branch + skip), rtol=1e-4, atol=1e-4)


def test_option_a_behind_appends_all_zeros():
    y = ops.subsample_and_pad(jnp.ones((1, 2, 2, 3)), stride=1, features=8, both_sides=False)
    assert y[0, 0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_dropout_and_drop_path_act_in_training_only():
    model, variables, x = build(dropout=0.5, head_dropout=0.5, drop_path=0.5)
    apply = jax.jit(
        lambda key, train: model.apply(variables, x, train=train, rngs={"dropout": key}, mutable=["batch_stats"])[0],
        static_argnums=1,
    )
    first, second = (apply(jax.random.key(seed), True) for seed in (0, 1))
    assert not np.allclose(first, second)
    plain = ResNet(TINY).apply(variables, x, train=False)
    np.testing.assert_allclose(apply(jax.random.key(0), False), plain, rtol=1e-4, atol=1e-5)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4000, 3))
    y = np.asarray(ops.drop_path(jax.random.key(0), x, 0.2))
    assert set(np.unique(y)) == {0.0, 1.25}
    assert (y == y[:, :1]).all()
    assert y.mean() == pytest.approx(1.0, abs=0.05)


def test_max_pooled_head():
    model, variables, x = build(head_pool="max", num_classes=0)
    inside = captured(model, variables, x)
    np.testing.assert_allclose(out(inside), np.asarray(out(inside, "stage2")).max(axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param({"order": "pre"}, marks=pytest.mark.slow),
        {"order": "pre", "block": "bottleneck", "shortcut": "B", "groups": 2},
        {"norm": "group", "weight_standardization": "standard", "order": "pre"},
        pytest.param({"norm": "layer"}, marks=pytest.mark.slow),
        pytest.param({"norm": "instance"}, marks=pytest.mark.slow),
        pytest.param({"norm": "none"}, marks=pytest.mark.slow),
        pytest.param({"shortcut": "none"}, marks=pytest.mark.slow),
        {"shortcut": "D", "stem": "deep", "stem_pool": "conv"},
        pytest.param({"attention": "se"}, marks=pytest.mark.slow),
        pytest.param({"attention": "eca", "block": "bottleneck", "shortcut": "B"}, marks=pytest.mark.slow),
        pytest.param({"residual": "skipinit", "norm": "none"}, marks=pytest.mark.slow),
        pytest.param({"residual": "rezero", "norm": "none"}, marks=pytest.mark.slow),
        FIXUP,
        pytest.param({**FIXUP, "block": "bottleneck", "shortcut": "B"}, marks=pytest.mark.slow),
        pytest.param(NF, marks=pytest.mark.slow),
        {**NF, "residual": "nf_gain", "block": "bottleneck", "attention": "se"},
        pytest.param({"spatial_dims": 1}, marks=pytest.mark.slow),
        pytest.param({"spatial_dims": 3, "shortcut": "D", "stem": "imagenet"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_every_parameter_gets_a_gradient(choices):
    """From random values: at zero-initialized ones some gradients vanish by design."""
    model, variables, x = build(**choices)

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(logits**3)

    grads = jax.jit(jax.grad(loss))(variables["params"])
    silent = {path for path, leaf in zip(paths(grads), jax.tree.leaves(grads), strict=True) if not jnp.any(leaf)}
    assert not silent
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


# ratio, divisor, and what becomes of some widths; timm's make_divisible(c * ratio, divisor, round_limit=0)
HIDDEN = [
    (1 / 16, 8, {16: 8, 64: 8, 128: 8, 192: 16, 256: 16, 272: 16, 320: 24, 336: 24, 448: 32, 576: 40, 2048: 128}),
    (1 / 16, 1, {16: 1, 24: 2, 40: 3, 64: 4, 68: 4, 72: 5, 76: 5, 88: 6, 512: 32}),
    (1 / 4, 8, {16: 8, 48: 16, 68: 16, 80: 24, 112: 32, 256: 64}),
]


@pytest.mark.parametrize(("ratio", "divisor", "table"), HIDDEN)
def test_squeezed_channels_are_rounded_to_the_nearest_multiple_and_a_half_up(ratio, divisor, table):
    assert {channels: hidden_channels(channels, ratio, divisor) for channels in table} == table
    model = ResNetConfig((1,), (192,), stem="cifar", attention="se", num_classes=2)
    shapes = jax.eval_shape(lambda: ResNet(model).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False))
    reduce = shapes["params"]["stage1"]["block0"]["branch"]["se"]["reduce"]
    assert (reduce["kernel"].shape, reduce["bias"].shape) == ((192, 16), (16,))


def test_eca_windows_are_odd_and_rounded_up_from_even_ones():
    """The whole part of (log2(C) + 1) / 2, plus 1 if even, at least 3: the authors' code."""
    table = {2: 3, 16: 3, 32: 3, 64: 3, 96: 3, 127: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7, 8192: 7, 32768: 9}
    assert {channels: eca_kernel_size(channels) for channels in table} == table


@pytest.mark.parametrize("function", ["standardize", "scaled_standardize"])
def test_the_epsilon_of_standardized_weights_is_under_the_root(function):
    """As large as the variance, so that any other place would show; and added, not the smallest it may be."""
    w = np.random.default_rng(0).normal(1.0, 0.5, size=(3, 3, 4, 5)).astype(np.float32)
    flat = w.reshape(-1, 5).astype(np.float64)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 0.3)
    if function == "standardize":
        found = ops.standardize(jnp.asarray(w), 0.3)
    else:
        found, expected = ops.scaled_standardize(jnp.asarray(w), jnp.ones(5), 0.3), expected / 6.0
    np.testing.assert_allclose(found.reshape(-1, 5), expected, rtol=1e-5, atol=1e-6)
