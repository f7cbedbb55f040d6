"""A network prepared for inference gives the logits of the one it was made from, its kernels packed if possible."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.models.block import Branch
from resnet_jax.ops import native
from resnet_jax.weights.fold import fold_batch_norm
from resnet_jax.weights.prepare import prepare_for_inference
from tests.tools import random_variables

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no compiled convolutions: {native.status()}")
WIDE = ResNetConfig((1, 1), (32, 64), stem="cifar", shortcut="B", num_classes=5)
CHOICES = {
    "basic": {},
    "bottleneck": {"block": "bottleneck"},
    "groups": {"block": "bottleneck", "groups": 2},
    "pre": {"order": "pre", "block": "bottleneck", "stem": "deep"},
    "dilated": {"stage_sizes": (1, 1, 1), "widths": (32, 32, 64), "stem": "imagenet", "output_stride": 8},
    "squeeze": {"attention": "se"},
    "gelu": {"activation": "gelu", "shortcut": "D"},
    "scaled": {"weight_standardization": "scaled", "conv_bias": True, "residual": "skipinit"},
    "scanned": {"stage_sizes": (4, 1), "execution": "scan"},
    "group norm": {"norm": "group", "norm_groups": 4},
    "signals": {"spatial_dims": 1},
}


def built(**choices):
    model = ResNet(dataclasses.replace(WIDE, **choices))
    shape = (16,) * model.config.spatial_dims + (3,)
    return model, random_variables(model, shape), shape


def images(count, shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, *shape)), jnp.float32)


#: Packed in part, with sums and standardization on the way, and not at all.
QUICK = ("groups", "pre", "scaled", "signals")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CHOICES]
)
@pytest.mark.slow
def test_the_logits_are_those_of_the_network(name):
    model, variables, shape = built(**CHOICES[name])
    fast, prepared = prepare_for_inference(model, variables, shape)
    x = images(3, shape)
    of_all = jax.jit(lambda variables, x: model.apply(variables, x, train=False))(variables, x)
    for count in (1, 3):
        expected = of_all[:count]
        got = jax.jit(lambda variables, x: fast.apply(variables, x, train=False))(prepared, x[:count])
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * max(1.0, float(jnp.abs(expected).max())))
    packed = flatten_dict(prepared.get("packed", {}))
    assert bool(packed) == (model.config.spatial_dims == 2)
    assert not set(packed) & set(flatten_dict(prepared["params"]))


def test_what_cannot_be_packed_stays_as_it_is():
    model, variables, shape = built(**CHOICES["groups"])
    _, prepared = prepare_for_inference(model, variables, shape)
    packed, params = (flatten_dict(prepared[name]) for name in ("packed", "params"))
    assert ("stage2", "block0", "branch", "conv1", "kernel") in packed
    assert params["stage2", "block0", "branch", "conv2", "kernel"].ndim == 4  # groups
    assert params["stem", "conv", "kernel"].ndim == 4  # three colours


def test_a_network_of_another_dtype_is_folded_only():
    model, variables, shape = built(dtype="bfloat16")
    _, prepared = prepare_for_inference(model, variables, shape)
    expected = fold_batch_norm(model, variables)[1]
    assert jax.tree.map(jnp.shape, prepared) == jax.tree.map(jnp.shape, expected)


def test_who_looks_in_between_sees_what_is_added():
    model, variables, shape = built(order="pre")
    fast, prepared = prepare_for_inference(model, variables, shape)
    folded, plain = fold_batch_norm(model, variables)
    seen = {}

    def looking(network, variables):
        def look(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if isinstance(context.module, Branch) and context.method_name == "__call__":
                seen.setdefault(context.module.path, []).append(y)
            return y

        with nn.intercept_methods(look):
            network.apply(variables, images(2, shape), train=False)

    looking(fast, prepared), looking(folded, plain)
    assert len(seen) == 2
    for got, expected in seen.values():
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * float(jnp.abs(expected).max()))
