"""Roles: the names of our models, a stranger's Linen net, exact-once coverage, masks, counts."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.core import freeze
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, abstract_variables, create_model, list_models
from resnet_jax.training.lr_multipliers import distances
from resnet_jax.training.roles import KERNEL_ROLES, ROLE_RULES, count_by_role, mask, role_names, role_rules, roles

OURS = {
    "stem/conv/kernel": "conv",
    "stem/norm/scale": "norm_scale",
    "stem/norm/bias": "norm_bias",
    "stage1/block0/conv1/kernel": "conv",
    "stage1/block0/conv1/bias": "bias",
    "stage1/block0/conv1/gain": "gain",
    "stage1/block0/norm1/scale": "norm_scale",
    "stage1/block0/norm1/bias": "norm_bias",
    "stage1/block0/norm2/bn/scale": "norm_scale",
    "stage1/block0/shortcut/conv/kernel": "conv",
    "stage1/block0/shortcut/norm/scale": "norm_scale",
    "stage1/block0/shortcut/norm/bias": "norm_bias",
    "stage1/block0/branch/conv1/kernel": "conv",
    "stage1/block0/branch/conv1/bias": "bias",
    "stage1/block0/branch/conv1/gain": "gain",
    "stage1/block0/branch/norm1/scale": "norm_scale",
    "stage1/block0/branch/bias1a": "scalar",
    "stage1/block0/branch/bias3b": "scalar",
    "stage1/block0/branch/scale": "scalar",
    "stage1/block0/branch/gain": "scalar",
    "stage1/block0/branch/se/reduce/kernel": "dense",
    "stage1/block0/branch/se/expand/bias": "bias",
    "stage1/block0/branch/eca/conv/kernel": "conv",
    "stage1/block0/preact/norm/scale": "norm_scale",
    "stage1/block0/preact/norm/bias": "norm_bias",
    "stage2/blocks/conv1/kernel": "conv",
    "stage2/blocks/gain": "scalar",
    "stem/conv3/gain": "gain",
    "stem/norm2/bias": "norm_bias",
    "stem/pool_conv/kernel": "conv",
    "stem/pool_norm/scale": "norm_scale",
    "stem/bias1": "scalar",
    "bias2": "scalar",
    "norm/scale": "norm_scale",
    "norm/bias": "norm_bias",
    "head/kernel": "head",
    "head/bias": "head_bias",
    "head/classifier_digit/kernel": "head",
    "head/log_variance": "log_variance",
}
STRANGERS = {
    "Conv_0/kernel": "conv",
    "Conv_0/bias": "bias",
    "ConvTranspose_0/kernel": "conv",
    "ResNetBlock_3/Conv_1/kernel": "conv",
    "ResNetBlock_3/BatchNorm_1/scale": "norm_scale",
    "ResNetBlock_3/norm_proj/bias": "norm_bias",
    "conv_init/kernel": "conv",
    "bn_init/scale": "norm_scale",
    "conv_norm/scale": "norm_scale",
    "WeightNormConv_0/kernel": "conv",
    "LayerNorm_0/bias": "norm_bias",
    "Dense_0/kernel": "dense",
    "Dense_0/bias": "bias",
    "backbone/head/kernel": "head",
    "classifier/kernel": "head",
    "classifier/bias": "head_bias",
    "head/se/kernel": "dense",
    "head/se/bias": "bias",
    "header/kernel": "dense",
    "kernel": "dense",
    "bias": "bias",
}


def _tree(paths: dict[str, str] | list[str], value: object = 0) -> dict:
    return unflatten_dict(dict.fromkeys(paths, value), sep="/")


@pytest.mark.parametrize("table", [OURS, STRANGERS], ids=["ours", "strangers"])
def test_every_name_has_its_role(table: dict[str, str]) -> None:
    assert flatten_dict(roles(_tree(table)), sep="/") == table


CHOICES = [
    {"residual": "fixup", "norm": "none"},
    {"residual": "skipinit", "norm": "none"},
    {"residual": "rezero"},
    {"residual": "nf_gain", "norm": "none"},
    {"attention": "se", "stem": "deep", "stem_pool": "conv"},
    {"attention": "eca", "order": "pre", "conv_bias": True},
]


def _smallest(config: ResNetConfig) -> ResNetConfig:
    """The same kinds of parameters under the same names: one block a stage has them all."""
    stages = len(config.stage_sizes)
    same = {"groups": 1, "base_width": 64, "stem_width": None, "num_classes": 10, "drop_path": 0.0, "dropout": 0.0}
    return dataclasses.replace(config, stage_sizes=(1,) * stages, widths=(64,) * stages, **same)


def _params_of(config: ResNetConfig) -> dict:
    return abstract_variables(ResNet(config), (32,) * config.spatial_dims + (config.in_channels,))["params"]


@pytest.mark.slow
def test_every_network_of_the_table_is_covered() -> None:
    """Each parameter of each has one role and a distance from the classifier, and all have a classifier."""
    for config in {_smallest(create_model(name).config) for name in list_models()}:
        params = _params_of(config)
        assert {"conv", "head", "head_bias"} <= set(count_by_role(params)), config
        depth = len(config.stage_sizes) * (2 if config.transition == "conv_pool" else 1)  # a layer before each
        assert max(jax.tree.leaves(distances(params))) == depth + (config.stem != "none")


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_every_choice_is_covered(choices: dict) -> None:
    """Scalars are the scalars, the rest is by what holds it."""
    params = _params_of(_smallest(create_model("resnet50", **choices).config))
    for path, (role, leaf) in flatten_dict(
        jax.tree.map(lambda role, leaf: (role, leaf), roles(params), params), sep="/"
    ).items():
        assert (role == "scalar") == (leaf.shape == ()), path
        assert (role in KERNEL_ROLES) == path.endswith("kernel"), path
    assert max(jax.tree.leaves(distances(params))) == 5


def test_a_plain_linen_net_is_covered() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Conv(4, (3, 3))(x)
            x = nn.BatchNorm(use_running_average=True)(x)
            x = nn.GroupNorm(num_groups=2)(x)
            return nn.Dense(3)(x.mean((1, 2)))

    params = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    assert count_by_role(params) == {
        "conv": 3 * 3 * 3 * 4, "dense": 4 * 3, "bias": 4 + 3, "norm_scale": 4 + 4, "norm_bias": 4 + 4,
    }  # fmt: skip
    assert mask(params, KERNEL_ROLES)["Dense_0"] == {"kernel": True, "bias": False}


def test_a_classifier_of_another_name_is_told_by_it() -> None:
    tree = _tree(["conv_out/kernel", "conv_out/bias", "head/kernel", "conv1/kernel"])
    assert flatten_dict(roles(tree, role_rules(head="conv_out")), sep="/") == {
        "conv_out/kernel": "head", "conv_out/bias": "head_bias", "head/kernel": "dense", "conv1/kernel": "conv",
    }  # fmt: skip


def test_the_structure_is_kept_and_only_paths_are_read() -> None:
    tree = freeze(_tree(OURS, jax.ShapeDtypeStruct((2, 3), jnp.float32)))
    assert jax.tree.structure(roles(tree)) == jax.tree.structure(tree)
    assert jax.tree.structure(mask(tree, ("conv",))) == jax.tree.structure(tree)


def test_paths_that_no_rule_covers_are_all_listed() -> None:
    with pytest.raises(UsageError, match="exactly one role") as caught:
        roles(_tree(["stem/conv/kernel", "pos_embedding", "stage1/block0/temperature", "odd/scale"]))
    message = str(caught.value)
    for path in ("pos_embedding", "stage1/block0/temperature", "odd/scale"):
        assert f"'{path}': no rule matches" in message
    assert "stem/conv/kernel" not in message


def test_paths_that_two_rules_cover_are_listed_with_the_rules() -> None:
    with pytest.raises(UsageError, match=r"'head/kernel': 2 rules match \(head: .*, classifier: 'head/\.\*'\)"):
        roles(_tree(["head/kernel"]), rules=(*ROLE_RULES, ("head/.*", "classifier")))


def test_rules_can_be_extended() -> None:
    rules = (*ROLE_RULES, (r"(?:.*/)?pos_embedding", "embedding"))
    tree = _tree(["encoder/pos_embedding", "head/kernel"])
    assert role_names(rules)[-1] == "embedding"
    assert mask(tree, ("embedding",), rules) == {
        "encoder": {"pos_embedding": True},
        "head": {"kernel": False},
    }
    with pytest.raises(UsageError, match="unknown parameter role 'embedding'"):
        mask(tree, ("embedding",))


def test_masks_partition_the_parameters() -> None:
    tree = _tree(OURS)
    each = [flatten_dict(mask(tree, (role,)), sep="/") for role in role_names()]
    assert {path: sum(m[path] for m in each) for path in OURS} == dict.fromkeys(OURS, 1)
    assert not any(jax.tree.leaves(mask(tree, ())))
    assert mask({"head": {"bias": 0}}, ("conv",)) == {"head": {"bias": False}}  # known, but absent


def test_an_unknown_role_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown parameter role 'norm_scal'; did you mean 'norm_scale'"):
        mask(_tree(OURS), ("conv", "norm_scal"))
