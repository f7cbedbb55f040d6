"""Folded networks in evaluation: each convolution computes what follows it, unless somebody looks in between."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.models.block import Branch
from resnet_jax.ops.conv_finished import finished_p
from resnet_jax.weights.fold import fold_batch_norm
from tests.tools import random_variables

TINY = ResNetConfig((1, 1), (4, 8), stem="cifar", shortcut="B", num_classes=5)
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


def folded(**choices):
    model = ResNet(dataclasses.replace(TINY, **choices))
    return fold_batch_norm(model, random_variables(model, (8, 8, 3)))


def primitives(function, *operands) -> list[str]:
    """Name what is computed, without the insides of calls."""
    names = []

    def collect(jaxpr):
        for equation in jaxpr.eqns:
            names.append(equation.primitive.name)
            for inner in (p for p in equation.params.values() if hasattr(p, "jaxpr")):
                collect(inner.jaxpr)

    collect(jax.make_jaxpr(function)(*operands).jaxpr)
    return names


@pytest.mark.parametrize(
    ("choices", "convolutions"),
    [({}, 6), ({"block": "bottleneck"}, 9), ({"order": "pre"}, 6), ({"shortcut": "none"}, 5), ({"stem": "deep"}, 8)],
)
def test_nothing_is_left_between_the_convolutions(choices, convolutions):
    model, params = folded(**choices)
    names = primitives(lambda params, x: model.apply(params, x, train=False), params, IMAGES)
    assert names.count(finished_p.name) == convolutions
    assert "conv" not in names
    if model.config.is_pre:
        return  # a scale, a shift and a ReLU stand before each block
    assert not {"max", "custom_jvp_call"} & set(names)


@pytest.mark.parametrize("choices", [{"activation": "gelu"}, {"attention": "se"}, {"residual": "skipinit"}])
def test_other_networks_are_computed_part_by_part(choices):
    model, params = folded(**choices)
    names = primitives(lambda params, x: model.apply(params, x, train=False), params, IMAGES)
    assert finished_p.name not in names


def test_training_is_computed_part_by_part():
    model, params = folded()
    names = primitives(lambda params, x: model.apply(params, x, train=True), params, IMAGES)
    assert finished_p.name not in names


@pytest.mark.parametrize("order", ["post", "pre"])
def test_who_looks_in_between_sees_what_is_added(order):
    model, params = folded(order=order)
    expected = model.apply(params, IMAGES, train=False)
    seen = []

    def look(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if isinstance(context.module, Branch) and context.method_name == "__call__":
            seen.append(y)
        return y

    with nn.intercept_methods(look):
        logits = model.apply(params, IMAGES, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    captured, found = model.apply(params, IMAGES, train=False, capture_intermediates=True, mutable=["intermediates"])
    np.testing.assert_allclose(captured, expected, rtol=1e-4, atol=1e-5)
    first = found["intermediates"]["stage1"]["block0"]
    np.testing.assert_allclose(first["branch"]["__call__"][0], seen[0], rtol=1e-5, atol=1e-5)
    total = first["shortcut"]["__call__"][0] + seen[0]
    np.testing.assert_allclose(first["__call__"][0], total if order == "pre" else jnp.maximum(total, 0), atol=1e-5)
    assert (np.asarray(seen[0]) < 0).any()


def test_a_folded_network_has_its_gradient():
    model, params = folded()

    def loss(params, part_by_part):
        kwargs = {"mutable": ["intermediates"]} if part_by_part else {}
        y = model.apply(params, IMAGES, train=False, **kwargs)
        return jnp.sum(jnp.sin(y[0] if part_by_part else y))

    got, expected = (jax.jit(jax.grad(lambda p, w=w: loss(p, w)))(params) for w in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)
