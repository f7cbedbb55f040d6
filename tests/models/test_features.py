"""The backbone: every stage's output, dilation in the place of strides, and heads of one's own on it."""

from __future__ import annotations

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, count, create_model
from resnet_jax.models.activation import ACTIVATIONS
from resnet_jax.models.choices import CHOICES, ModelChoices
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.init import INITIALIZERS
from resnet_jax.models.plan import plan_stages
from tests.tools import random_variables

SMALL = ResNetConfig((1, 2, 3), (4, 4, 8), stem="deep", num_classes=3, norm_groups=2)
NORM_FREE = {"norm": "none", "execution": "scan"}
#: Each has something of its own to do at a stride that is left out.
NETS = {
    "bottleneck": {"block": "bottleneck"},
    "1x1": {"block": "bottleneck", "stride_in": "1x1", "groups": 2, "base_width": 32},
    "A": {"shortcut": "A"},
    "D": {"shortcut": "D"},
    "pre D": {"shortcut": "D", "order": "pre"},
    "fixup": {"residual": "fixup", "stem": "imagenet", **NORM_FREE},
    "nf": {"residual": "nf", **NORM_FREE},
    "1-D": {"spatial_dims": 1},
}


def net(**choices):
    return ResNet(dataclasses.replace(SMALL, **choices))


def images(config, side=29):
    x = np.random.default_rng(0).normal(size=(2, *(side,) * config.spatial_dims, 3))
    return jnp.asarray(x, jnp.float32)


def features(model, variables, x):
    return jax.jit(lambda v, x: model.apply(v, x, train=False, method="features"))(variables, x)


@pytest.mark.parametrize(
    "name", [name if name == "bottleneck" else pytest.param(name, marks=pytest.mark.slow) for name in NETS]
)
def test_a_dilated_stage_has_the_strided_ones_numbers_at_every_second_position(name):
    """29 pixels give 8, 4 and 2 positions, or 8, 8 and 8 without the two strides; at the edges too."""
    strided = net(**NETS[name])
    config = dataclasses.replace(strided.config, stage_sizes=(1, 2, 3, 2), widths=(4, 4, 8, 8))
    strided, dilated = ResNet(config), ResNet(dataclasses.replace(config, output_stride=8))
    x = images(config)
    variables = random_variables(strided, x.shape[1:])
    own, all_positions = features(strided, variables, x), features(dilated, variables, x)
    for stage, step in (("stage1", 1), ("stage2", 1), ("stage3", 2), ("stage4", 4), ("final", 4)):
        there = all_positions[stage][(slice(None), *(slice(None, None, step),) * config.spatial_dims)]
        scale = float(jnp.abs(own[stage]).max())
        np.testing.assert_allclose(there, own[stage], rtol=0, atol=1e-5 * scale, err_msg=stage)


@pytest.mark.parametrize(
    ("stride", "sides"),
    [
        pytest.param(None, (16, 8, 4, 2), marks=pytest.mark.slow),
        pytest.param(32, (16, 8, 4, 2), marks=pytest.mark.slow),
        pytest.param(16, (16, 8, 4, 4), marks=pytest.mark.slow),
        (8, (16, 8, 8, 8)),
    ],
)
def test_shapes_parameters_and_multiply_adds_by_output_stride(stride, sides):
    model = create_model("resnet50", output_stride=stride)
    variables = abstract_variables(model, (64, 64, 3))
    found = jax.eval_shape(
        lambda v: model.apply(v, jnp.ones((1, 64, 64, 3)), train=False, method="features"), variables
    )
    assert [found[f"stage{stage}"].shape for stage in (1, 2, 3, 4)] == [
        (1, side, side, 256 * 2**stage) for stage, side in enumerate(sides)
    ]
    assert found["stem"].shape == (1, 16, 16, 64)
    assert found["pooled"].shape == (1, 2048)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, abstract_variables(create_model("resnet50"), (64, 64, 3))
    )
    assert count(model, (64, 64, 3)).params == 25_557_032


def test_which_convolutions_dilate_is_torchvisions_rule():
    """resnet50(replace_stride_with_dilation=[False, True, True]): the dilation of every block's 3x3."""
    model = create_model("resnet50", output_stride=8)
    variables = abstract_variables(model, (64, 64, 3))
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, jnp.ones((1, 64, 64, 3)))
    specs = [eqn.params["spec"] for eqn in jaxpr.jaxpr.eqns if "conv" in eqn.primitive.name]
    threes = [spec for spec in specs if spec.window == (3, 3)]
    assert [spec.dilation[0] for spec in threes] == [1] * 3 + [1] * 4 + [1] + [2] * 5 + [2] + [4] * 2
    assert [spec.strides[0] for spec in threes] == [1] * 3 + [2] + [1] * 12
    assert [spec.padding for spec in threes] == [spec.dilation for spec in threes]


def test_macs_of_a_dilated_network_are_those_of_its_larger_maps():
    """All of a stage's multiply-adds are done at as many more positions, but for the layers before its stride."""
    own, dilated = (count(net(num_classes=0, output_stride=s), (32, 32, 3)).macs for s in (None, 8))
    stage3 = sum(
        conv
        for block in plan_stages(SMALL)[2]
        for conv in (9 * block.in_features * 8, 9 * 8 * 8, (block.in_features * 8 if block.index == 0 else 0))
    )
    assert dilated - own == stage3 * (4 * 4 - 2 * 2)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        (
            {"output_stride": 32},
            "output_stride 32 is more than this network's own, 16 .stem deep: 4, times 2 for each of 2",
        ),
        ({"output_stride": 8, "stem": "cifar"}, "more than this network's own, 4 .stem cifar: 1"),
    ],
)
def test_output_strides_that_cannot_be_are_refused(choices, message):
    with pytest.raises(UsageError, match=message):
        net(**choices)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_dilated_convolution_is_the_windows_own_definition(groups):
    """In values and gradients, against one matrix product for each tap of the window."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 9, 9, 4), (3, 3, 4 // groups, 6)))

    def ours(x, w):
        return ops.conv(x, w, strides=(1, 1), padding=(2, 2), dilation=(2, 2), groups=groups)

    def by_taps(x, w):
        padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))).reshape(2, 13, 13, groups, 4 // groups)
        w = w.reshape(3, 3, 4 // groups, groups, 6 // groups)
        taps = [
            jnp.einsum(
                "nhwgi,igo->nhwgo", padded[:, 2 * i : 2 * i + 9, 2 * j : 2 * j + 9], w[i, j], precision="highest"
            )
            for i in range(3)
            for j in range(3)
        ]
        return sum(taps[1:], taps[0]).reshape(2, 9, 9, 6)

    got, expected = (
        jax.jit(jax.value_and_grad(lambda x, w, f=f: jnp.sum(jnp.sin(f(x, w))), (0, 1)))(x, w) for f in (ours, by_taps)
    )
    for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("choices", [{"head_pool": "max"}, {"order": "pre", "dtype": "bfloat16"}])
def test_final_map_pool_and_head_are_the_logits_exactly(choices):
    model = net(**choices)
    x = images(model.config, 16)
    variables = random_variables(model, x.shape[1:])
    found, logits = features(model, variables, x), jax.jit(lambda v: model.apply(v, x, train=False))(variables)
    pool = ops.global_max_pool if "head_pool" in choices else ops.global_mean_pool
    pooled = jax.jit(pool)(found["final"])
    np.testing.assert_array_equal(pooled, found["pooled"])
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits, pooled @ head["kernel"] + head["bias"][None], rtol=1e-6, atol=1e-6)
    assert set(found) == {"stem", "stage1", "stage2", "stage3", "final", "pooled"}
    assert found["stage3"].dtype == model.config.dtype
    assert found["pooled"].dtype == jnp.float32
    if "order" not in choices:
        np.testing.assert_array_equal(found["final"], found["stage3"])


class TwoTasks(nn.Module):
    """A label for every position of the last stage, and a number for the whole image, on one backbone."""

    backbone: ResNet

    @nn.compact
    def __call__(self, x, *, train):
        found = self.backbone.features(x, train=train)
        return nn.Conv(2, (1, 1), name="segment")(found["final"]), nn.Dense(1, name="number")(found["pooled"])


@pytest.mark.parametrize("choices", [{"execution": "scan", "remat": "block", "drop_path": 0.2}])
def test_heads_of_ones_own_train_on_one_backbone(choices):
    backbone = net(num_classes=0, stage_sizes=(1, 3), widths=(4, 8), output_stride=8, **choices)
    model, x = TwoTasks(backbone), images(backbone.config, 16)
    variables = random_variables(model, x.shape[1:])
    assert sorted(variables["params"]) == ["backbone", "number", "segment"]
    assert "blocks" in variables["params"]["backbone"]["stage2"]
    bright = (x.mean(-1)[:, ::8, ::8] > 0).astype(jnp.float32)

    @jax.jit
    def step(params, stats, key):
        def loss(params):
            (maps, number), updates = model.apply(
                {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
            error = jnp.mean((maps[..., 0] - bright) ** 2) + jnp.mean((number[:, 0] - 1.0) ** 2)
            return error, updates["batch_stats"]

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), stats, value, grads

    params, stats, values = variables["params"], variables["batch_stats"], []
    for number in range(12):
        params, stats, value, grads = step(params, stats, jax.random.key(number))
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["backbone"]["stem"]))


def test_every_choice_is_a_literal_with_one_home():
    hints = typing.get_type_hints(ModelChoices)
    fields = typing.get_type_hints(ResNetConfig)
    assert list(hints) == list(fields)
    for name, hint in fields.items():
        assert hints[name] == hint or name in ("dtype", "param_dtype")
        if name in CHOICES:
            literal = next((part for part in typing.get_args(hint) if typing.get_args(part)), hint)
            assert typing.get_args(literal) == CHOICES[name]
    assert CHOICES["activation"] == tuple(ACTIVATIONS)
    assert CHOICES["init"] == CHOICES["head_init"] == tuple(INITIALIZERS)


def test_an_unknown_norm_is_never_taken_for_another():
    """Not even one that got past the check of the configuration."""
    from resnet_jax.depth import mean_field, mean_field_backward
    from resnet_jax.models import layers

    config = dataclasses.replace(SMALL)
    object.__setattr__(config, "norm", "gruop")
    signal = mean_field.gaussian(4, np.ones((4, 4)))
    gradient = mean_field_backward.flat(np.array(1.0), signal)
    for call in (
        lambda: layers.norm(config, name="norm"),
        lambda: mean_field.norm(config, signal, True),
        lambda: mean_field_backward.norm(config, signal, gradient, True, 8.0),
    ):
        with pytest.raises((AssertionError, UsageError), match="gruop"):
            call()


def test_mean_field_rules_of_a_dilated_convolution_are_adjoint_and_count_its_taps():
    from resnet_jax.depth.mean_field import window_sum
    from resnet_jax.depth.mean_field_backward import window_spread

    kernel = jnp.ones((3, 3, 1, 1))
    values, other = np.random.default_rng(0).normal(size=(2, 7, 9))
    summed = window_sum(values, 3, 1, 2)
    taps = ops.conv(
        jnp.asarray(values, jnp.float32)[None, ..., None], kernel, strides=(1, 1), padding=(2, 2), dilation=(2, 2)
    )
    np.testing.assert_allclose(summed, taps[0, ..., 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.vdot(summed, other), np.vdot(values, window_spread(other, (7, 9), 3, 1, 2)))
