"""A folded network gives the logits of the one it was made from."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.weights.fold import fold_batch_norm
from tests.tools import paths, random_variables

TINY = ResNetConfig((1, 1), (4, 8), stem="cifar", shortcut="B", num_classes=5)


def inferred(model, variables, x):
    return jax.jit(lambda variables, x: model.apply(variables, x, train=False))(variables, x)


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"residual": "zero_gamma", "shortcut": "A"}, marks=pytest.mark.slow),
        {"block": "bottleneck", "groups": 2, "attention": "se"},
        pytest.param({"order": "pre"}, marks=pytest.mark.slow),
        {"order": "pre", "block": "bottleneck", "shortcut": "D", "stem": "deep", "attention": "eca"},
        pytest.param({"stem": "deep", "stem_pool": "conv"}, marks=pytest.mark.slow),
        pytest.param({"stem": "deep_wide", "stem_pool": "conv", "order": "pre"}, marks=pytest.mark.slow),
        pytest.param({"stem": "imagenet", "shortcut": "none"}, marks=pytest.mark.slow),
        pytest.param({"weight_standardization": "standard", "residual": "rezero"}, marks=pytest.mark.slow),
        {"weight_standardization": "scaled", "conv_bias": True, "attention": "eca"},
        {"norm_scope": "ghost", "ghost_size": 2, "residual": "skipinit"},
        pytest.param({"spatial_dims": 1}, marks=pytest.mark.slow),
        {
            "spatial_dims": 1,
            "block": "series",
            "stem": "none",
            "transition": "none",
            "shortcut": "B_norm",
            "widths": (4, 4),
        },
        {"stem": "whiten", "transition": "conv_pool", "logit_scale": 0.5},
        pytest.param(
            {"stem": "whiten", "transition": "conv_pool", "block": "single", "order": "pre", "activation": "gelu_erf"},
            marks=pytest.mark.slow,
        ),
        pytest.param({"spatial_dims": 3, "norm_eps": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_logits_are_the_same_to_1e_5(choices):
    model = ResNet(dataclasses.replace(TINY, **choices))
    shape = (8,) * model.config.spatial_dims + (3,)
    variables = random_variables(model, shape)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, *shape)), jnp.float32)
    expected = inferred(model, variables, x)
    folded, params = fold_batch_norm(model, variables)
    np.testing.assert_allclose(
        inferred(folded, params, x), expected, rtol=0, atol=1e-5 * max(1.0, float(jnp.abs(expected).max()))
    )
    made = jax.eval_shape(lambda: folded.init(jax.random.key(0), x, train=False))
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)  # nothing left over, nothing missing


def test_no_norm_is_left_in_post_activation_order():
    model = ResNet(TINY)
    _, params = fold_batch_norm(model, random_variables(model, (8, 8, 3)))
    assert not [path for path in paths(params) if "norm" in path]


@pytest.mark.parametrize("norm", ["group", "none"])
def test_other_norms_cannot_be_folded(norm):
    model = ResNet(dataclasses.replace(TINY, norm=norm, norm_groups=4))
    with pytest.raises(UsageError, match=f"only batch norm.*norm is {norm}"):
        fold_batch_norm(model, random_variables(model, (8, 8, 3)))


def test_the_folding_program_is_the_same_in_every_process():
    """Kept programs are found by their text: in the order of a set of names, it would be another one each time."""
    model = ResNet(ResNetConfig((1,) * 6, (4, 8, 12, 16, 20, 24), stem="cifar", num_classes=5))
    variables = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0))
    program = jax.make_jaxpr(lambda variables: fold_batch_norm(model, variables)[1])(variables)
    roots = [equation.outvars[0].aval.shape for equation in program.eqns if equation.primitive.name == "sqrt"]
    stats = flatten_dict(variables["batch_stats"])
    assert len(roots) > 12
    assert roots == [stats[path].shape for path in stats if path[-1] == "var"]
