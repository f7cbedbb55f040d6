"""Heads for pixels: published sizes, sides of every stride and dimension, norm-free networks, folding, roles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import ops
from resnet_jax.models import ResNet, ResNetConfig, abstract_variables, create_model
from resnet_jax.models.heads.pyramid import Pyramid
from resnet_jax.training.lr_multipliers import distances
from resnet_jax.training.roles import count_by_role
from resnet_jax.weights.fold import fold_batch_norm
from tests.tools import initialize, random_variables

#: Channels of ResNet-50's stages.
C50 = (256, 512, 1024, 2048)


def parameters(model: ResNet, shape=(64, 64, 3)) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(model, shape)["params"]))


@pytest.mark.parametrize(
    ("head", "width", "published"),
    [
        # torchvision's fcn_resnet50 and deeplabv3_resnet50 as published, with an auxiliary FCN head on stage 3
        ("fcn", 512, 35_322_218 - (9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21)),
        ("aspp", 256, 42_004_074 - (9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21)),
        # Lin et al.'s pyramid: laterals and no 3x3 behind them; a 3x3 a level; each with a batch norm; a classifier
        ("fpn", 128, 23_508_032 + (sum(C50) + 4 * 9 * 128) * 128 + 8 * 2 * 128 + 128 * 21 + 21),
    ],
)
def test_a_head_has_the_published_number_of_parameters(head, width, published):
    model = create_model("resnet50", head=head, head_width=width, num_classes=21)
    assert parameters(model) == published


@pytest.mark.parametrize("head", ["fcn", "aspp", "fpn"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_outputs_have_the_sides_of_the_input_at_every_stride(head, stride):
    model = create_model("resnet18", head=head, head_width=8, num_classes=5, output_stride=stride)
    images = jax.ShapeDtypeStruct((2, 50, 71, 3), jnp.float32)
    made = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], images)
    assert (made.shape, made.dtype) == ((2, 50, 71, 5), jnp.float32)


@pytest.mark.parametrize("head", ["fcn", "aspp", "fpn"])
@pytest.mark.parametrize("dims", [1, 3])
def test_heads_are_of_any_dimension(head, dims):
    choices = ResNetConfig((1, 1, 1), (4, 8, 8), head=head, head_width=8, num_classes=3, spatial_dims=dims)
    inputs = jax.ShapeDtypeStruct((2, *(33, 20, 18)[:dims], 3), jnp.float32)
    made = jax.eval_shape(lambda x: ResNet(choices).init_with_output(jax.random.key(0), x, train=False)[0], inputs)
    assert made.shape == (*inputs.shape[:-1], 3)


@pytest.mark.parametrize(
    "rule",
    [
        {"residual": "nf", "norm": "none"},
        {"residual": "fixup", "norm": "none"},
        {"residual": "skipinit", "norm": "none"},
        {"norm": "group", "norm_groups": 2, "weight_standardization": "standard"},
        {"order": "pre"},
    ],
)
def test_heads_follow_the_rules_of_the_network(rule):
    for head in ("fcn", "aspp", "fpn"):
        model = ResNet(ResNetConfig((1, 1), (4, 8), stem="cifar", head=head, head_width=8, num_classes=3, **rule))
        shapes = abstract_variables(model, (12, 12, 3))
        names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(shapes["params"]["head"])}
        normed = rule.get("norm") != "none"
        assert ("scale" in names, "batch_stats" in shapes) == (normed, rule.get("norm") is None)
        assert ("gain" in names) == (rule.get("residual") == "nf")
        assert count_by_role(shapes["params"])["head"] == 8 * 3
        assert set(jax.tree.leaves(distances(shapes["params"])["head"])) == {0}


@pytest.mark.parametrize("order", [pytest.param("post", marks=pytest.mark.slow), "pre"])
@pytest.mark.slow
def test_a_head_is_folded_with_its_network(order):
    config = ResNetConfig((1, 1), (4, 8), stem="cifar", head="fpn", head_width=8, num_classes=3, order=order)
    model, images = ResNet(config), jax.random.normal(jax.random.key(0), (2, 12, 10, 3))
    variables = initialize(model, images)
    drawn = np.random.default_rng(0)
    variables = {
        "params": jax.tree.map(lambda x: x + 0.1 * drawn.normal(size=x.shape), variables["params"]),
        "batch_stats": jax.tree.map(lambda x: x + drawn.uniform(0, 0.5, x.shape), variables["batch_stats"]),
    }
    folded, params = fold_batch_norm(model, variables)
    wanted = model.apply(variables, images, train=False)
    np.testing.assert_allclose(folded.apply(params, images, train=False), wanted, atol=1e-4, rtol=1e-4)


def test_a_pyramid_adds_what_is_coarser_and_goes_on_beyond_the_last_stage():
    config = ResNetConfig((1, 1, 1, 1), (4, 4, 8, 8), head_width=4, norm="none")
    maps = {f"stage{s}": jnp.ones((1, side, side, c)) for s, side, c in ((1, 15, 4), (2, 8, 4), (3, 4, 8))}
    maps["final"] = jax.random.normal(jax.random.key(0), (1, 2, 2, 8))
    pyramid = Pyramid(config, first=2, extra=2, smooth=False)
    levels, variables = pyramid.init_with_output(jax.random.key(1), maps, train=False)
    assert [level.shape[1] for level in levels] == [8, 4, 2, 1, 1]
    weights = {
        name: np.asarray(layer["kernel"][0, 0]) for name, layer in variables["params"].items() if "lateral" in name
    }
    deep = np.asarray(maps["final"]) @ weights["lateral4_conv"]
    middle = deep.repeat(2, 1).repeat(2, 2) + weights["lateral3_conv"].sum(0)
    np.testing.assert_allclose(levels[2], deep, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(levels[1], middle, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        levels[0], middle.repeat(2, 1).repeat(2, 2) + weights["lateral2_conv"].sum(0), rtol=1e-5, atol=1e-5
    )
    rate = variables["params"]["extra1_conv"]["kernel"].shape, variables["params"]["extra2_conv"]["kernel"].shape
    assert rate == ((3, 3, 4, 4), (3, 3, 4, 4))


def test_doubling_is_the_nearest_neighbour():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 2)).astype(np.float32)
    rows, columns = np.arange(9) * 5 // 9, np.arange(6) * 3 // 6
    np.testing.assert_array_equal(ops.double_nearest(x, (9, 6)), x[:, rows][:, :, columns])


def test_bilinear_is_opencvs_between_half_pixels():
    cv2 = pytest.importorskip("cv2")
    x = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    wanted = cv2.resize(x, (21, 12), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(ops.resize_bilinear(x[None], (12, 21))[0], wanted, atol=1e-5)


@pytest.mark.parametrize("head", ["fpn", "aspp"])
def test_every_convolution_of_a_head_is_in_its_outputs(head):
    """Its gradient is not zero: no level of the pyramid, and no view, is left out."""
    model = ResNet(ResNetConfig((1, 1), (4, 8), stem="cifar", num_classes=3, head=head, head_width=4))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    variables = random_variables(model, (16, 16, 3))

    def loss(params):
        return jnp.sum(model.apply({**variables, "params": params}, images, train=False) ** 3)

    grads = jax.jit(jax.grad(loss))(variables["params"])["head"]
    silent = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(grads) if not leaf.any()]
    assert not silent
