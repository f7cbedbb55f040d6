"""Structure and numerics of the assembled network."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.models import Block, ResNet, ResNetConfig, create_model, list_models
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.plan import plan_stages
from tests.tools import initialize, paths, random_variables

TINY = ResNetConfig((2, 2), (8, 16), stem="cifar", shortcut="A", num_classes=5)


def build(**choices):
    model = ResNet(dataclasses.replace(TINY, **choices))
    shape = (8, 8, model.config.in_channels)
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    return model, random_variables(model, shape), jnp.asarray(x)


def infer(model, variables, x):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)


def intermediates(model, variables, x):
    """Outputs of all modules in evaluation mode."""

    def apply(v, x):
        return model.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"])[1]

    return jax.jit(apply)(variables, x)["intermediates"]


ORIGINAL = [*(f"resnet{d}" for d in (18, 34, 50, 101, 152, 200)), *list_models("resnet*_cifar"), "plain20_cifar"]


@pytest.mark.parametrize("name", [*ORIGINAL, "preact110_cifar", "preact1001_cifar", "fixup_resnet56_cifar"])
@pytest.mark.slow
def test_convolutions_and_classifier_add_up_to_the_name(name):
    """6n + 2 layers, or the ImageNet depth: projections and norms are not counted."""
    params = abstract_variables(create_model(name, execution="unroll"), (32, 32, 3))["params"]
    layers = [path for path in paths(params) if path.endswith("kernel") and "shortcut" not in path]
    assert len(layers) == int(re.search(r"\d+", name).group())


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet20_cifar_b", "resnet50"])
def test_shortcuts_have_parameters_only_where_the_shape_changes(name):
    params = abstract_variables(create_model(name, execution="unroll"), (32, 32, 3))["params"]
    projected = {path.split("/shortcut")[0] for path in paths(params) if "shortcut" in path}
    expected = {f"stage{i}/block0" for i in (2, 3, 4) if f"stage{i}" in params}
    if name == "resnet50":  # the first stage widens from 64 to 256 channels
        expected.add("stage1/block0")
    assert projected == expected


def test_identity_blocks_pass_the_input_through_unchanged():
    """A block with a silent branch is act(x), so that a non-negative input comes out to the last bit."""
    config = ResNetConfig((1,), (8,), residual="zero_gamma")
    block = Block(config, plan_stages(config)[0][0])
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (2, 5, 5, 8)))
    variables = initialize(block, x)
    np.testing.assert_array_equal(infer(block, variables, x), x)


def test_option_a_subsamples_from_zero_and_pads_both_sides():
    x = jnp.arange(2 * 5 * 5 * 3, dtype=jnp.float32).reshape(2, 5, 5, 3)
    y = ops.subsample_and_pad(x, stride=2, features=8)
    assert y.shape == (2, 3, 3, 8)
    np.testing.assert_array_equal(y[..., 2:5], x[:, ::2, ::2])
    np.testing.assert_array_equal(y[..., :2], 0)
    np.testing.assert_array_equal(y[..., 5:], 0)


def test_option_a_refuses_fewer_channels():
    with pytest.raises(ValueError, match="cannot reduce 8 channels to 4"):
        ops.subsample_and_pad(jnp.ones((1, 2, 2, 8)), stride=1, features=4)


def test_block_is_branch_plus_shortcut():
    model, variables, x = build()
    captured = intermediates(model, variables, x)
    previous = captured["stem"]["__call__"][0]
    for stage, strides, features in (("stage1", 1, 8), ("stage2", 2, 16)):
        for block in ("block0", "block1"):
            inside = captured[stage][block]
            stride = strides if block == "block0" else 1
            expected = previous
            if stride != 1:
                expected = ops.subsample_and_pad(previous, stride=stride, features=features)
            np.testing.assert_array_equal(inside["shortcut"]["__call__"][0], expected)
            total = jax.nn.relu(expected + inside["branch"]["__call__"][0])
            np.testing.assert_allclose(inside["__call__"][0], total, rtol=1e-6, atol=1e-6)
            previous = inside["__call__"][0]


@pytest.mark.parametrize(("size", "stride", "kernel"), [(7, 2, 3), (8, 2, 3), (8, 1, 3), (9, 2, 7), (5, 2, 1)])
def test_convolution_pads_symmetrically(size, stride, kernel):
    """Against a loop over windows of the explicitly padded input."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    w = rng.normal(size=(kernel, kernel, 3, 4)).astype(np.float32)
    pad = (kernel - 1) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    side = (size + 2 * pad - kernel) // stride + 1
    expected = np.zeros((2, side, side, 4))
    for i in range(side):
        for j in range(side):
            window = padded[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            expected[:, i, j] = np.einsum("nhwc,hwco->no", window, w)
    y = ops.conv(jnp.asarray(x), jnp.asarray(w), strides=(stride, stride), padding=(pad, pad))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_every_convolution_of_the_network_pads_by_half_its_window():
    """A stride-2 'SAME' convolution would give the same shapes and other numbers: look at the traced operations."""
    model = create_model("resnet50", num_classes=10)
    variables = abstract_variables(model, (64, 64, 3))
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, image)
    convs = [eqn for eqn in jaxpr.jaxpr.eqns if "conv" in eqn.primitive.name]
    assert len(convs) == 53
    for eqn in convs:
        half = (eqn.invars[1].aval.shape[0] - 1) // 2
        assert eqn.params["spec"].padding == (half, half)
    pools = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "max_pool"]
    assert [eqn.params["padding"] for eqn in pools] == [1]


def test_max_pool_padding_never_wins():
    y = ops.max_pool(jnp.full((1, 4, 4, 1), -5.0), window=3, stride=2, padding=1)
    np.testing.assert_array_equal(y, -5.0)


@pytest.mark.parametrize(("stride_in", "expected"), [("3x3", (1, 2)), ("1x1", (2, 1))])
def test_bottleneck_strides_where_it_is_told(stride_in, expected):
    model, variables, x = build(block="bottleneck", shortcut="B", stride_in=stride_in)
    branch = intermediates(model, variables, x)["stage2"]["block0"]["branch"]
    sides = [branch[name]["__call__"][0].shape[1] for name in ("conv1", "conv2")]
    assert sides == [8 // expected[0], 4]


def test_zero_gamma_starts_every_block_as_its_shortcut():
    model, _, x = build(residual="zero_gamma")
    variables = initialize(model, x)
    stages = {k: v for k, v in variables["params"].items() if k.startswith("stage")}
    for path, leaf in zip(paths(stages), jax.tree.leaves(stages), strict=True):
        if path.endswith("scale"):
            assert (leaf == (0.0 if path.endswith("norm2/scale") else 1.0)).all(), path
    branch = intermediates(model, variables, x)["stage2"]["block0"]["branch"]["__call__"][0]
    np.testing.assert_array_equal(branch, 0)


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32():
    model, variables, x = build(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits, updates = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, x)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
    block = intermediates(model, variables, x)["stage1"]["block0"]
    assert block["branch"]["conv1"]["__call__"][0].dtype == jnp.bfloat16
    assert block["__call__"][0].dtype == jnp.bfloat16
    exact = infer(ResNet(TINY), variables, x)
    np.testing.assert_allclose(infer(model, variables, x), exact, rtol=0.05, atol=0.05)


def test_features_without_a_classifier():
    model, variables, x = build(num_classes=0)
    features = infer(model, variables, x)
    assert features.shape == (2, 16)
    assert "head" not in variables["params"]


def test_any_number_of_channels_and_any_activation():
    model, variables, x = build(in_channels=5, activation="tanh")
    captured = intermediates(model, variables, x)
    assert captured["__call__"][0].shape == (2, 5)
    stem = captured["stem"]
    np.testing.assert_allclose(stem["__call__"][0], jnp.tanh(stem["norm"]["__call__"][0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 8, 8, 4), "takes 3 channels.*in_channels=4"),
        ((8, 8, 3), "batch axis missing"),
        ((2, 4, 8, 8, 3), "spatial_dims"),
    ],
)
def test_wrong_input_is_refused(shape, message):
    model, variables, _ = build()
    with pytest.raises(UsageError, match=message):
        model.apply(variables, jnp.zeros(shape), train=False)


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_every_parameter_gets_a_gradient(shortcut):
    model, variables, x = build(shortcut=shortcut)

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(logits**2)

    grads = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in zip(paths(grads), jax.tree.leaves(grads), strict=True):
        assert jnp.isfinite(leaf).all(), path
        assert jnp.abs(leaf).max() > 0, path


@pytest.mark.parametrize("shape", [(2, 16, 3), (2, 6, 8, 8, 3)])
def test_other_numbers_of_spatial_dimensions(shape):
    model = ResNet(dataclasses.replace(TINY, spatial_dims=len(shape) - 2))
    variables = random_variables(model, shape[1:])
    assert infer(model, variables, jnp.ones(shape)).shape == (2, 5)
    assert variables["params"]["stem"]["conv"]["kernel"].shape == (3,) * (len(shape) - 2) + (3, 8)
