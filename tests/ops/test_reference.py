"""Under ``reference_forms`` every program is plain ``lax``: counted, compared and never mixed with the other forms."""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from resnet_jax import ops
from resnet_jax.models import abstract_variables, count, create_model
from tests.ops.exact import close
from tests.ops.programs import OWN, equations, executed, multiply_adds
from tests.tools import random_variables

#: Row, image, choices: real networks of which only the shapes are used.
NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "resnet20_cifar": ("resnet20_cifar", (32, 32, 3), {}),
    "resnet50": ("resnet50", (224, 224, 3), {}),
    "grouped": ("resnext50_32x4d", (64, 64, 3), {"stage_sizes": (2, 1, 1, 1)}),
    "scanned": ("resnet20_cifar", (32, 32, 3), {"execution": "scan"}),
    "scanned_and_recomputed": ("resnet20_cifar", (32, 32, 3), {"execution": "scan", "remat": "block"}),
}


def network(name):
    """Return the model, its abstract variables and an abstract image."""
    row, image, choices = NETWORKS[name]
    model = create_model(row, **choices)
    return model, abstract_variables(model, image), jax.ShapeDtypeStruct((1, *image), jnp.float32)


def convolutions(variables) -> int:
    """Count the layers by their kernels; where blocks are stacked, one array holds a kernel of each of them."""
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return sum(math.prod(leaf.shape[:-4]) for path, leaf in leaves if path[-1].key == "kernel" and leaf.ndim >= 4)


def forward(model):
    return lambda variables, x: model.apply(variables, x, train=False)


def gradient(model):
    def loss(params, statistics, x):
        logits, _ = model.apply({"params": params, "batch_stats": statistics}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(logits))

    return lambda variables, x: jax.grad(loss)(variables["params"], variables["batch_stats"], x)


@pytest.mark.parametrize(
    "name",
    [name if name == "grouped" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_a_network_has_as_many_convolutions_of_lax_as_layers(name):
    """And a counter that knows only lax finds the multiply-adds that the network itself says."""
    model, variables, x = network(name)
    layers = convolutions(variables)
    with ops.reference_forms():
        program = jax.make_jaxpr(forward(model))(variables, x).jaxpr
        back = executed(gradient(model), variables, x)
    there = executed(program)
    assert there["conv_general_dilated"] == layers
    assert multiply_adds(program) == count(model, x.shape[1:]).macs
    recomputed = layers - 1 if "remat" in NETWORKS[name][2] else 0  # all but the stem
    assert back["conv_general_dilated"] == 3 * layers - 1 + recomputed  # the image has no gradient
    assert not OWN & (there.keys() | back.keys())


def test_outside_there_is_no_convolution_to_be_found():
    model, variables, x = network("scanned")
    program = jax.make_jaxpr(forward(model))(variables, x).jaxpr
    assert executed(program)["conv"] == convolutions(variables)
    assert multiply_adds(program) == 640  # the classifier


def test_a_tool_that_patches_lax_meets_every_convolution(monkeypatch):
    """As a quantizer does: it replaces the function that a network calls."""
    model, variables, x = network("resnet20_cifar")
    dtypes, conv = [], lax.conv_general_dilated

    def quantized(x, kernel, *args, **kwargs):
        dtypes.append(kernel.dtype)
        return conv(x, kernel.astype(jnp.int8).astype(kernel.dtype), *args, **kwargs)

    monkeypatch.setattr(lax, "conv_general_dilated", quantized)
    with ops.reference_forms():
        found = executed(forward(model), variables, x)
    assert len(dtypes) == convolutions(variables) == found["conv_general_dilated"]


def test_a_gradient_multiplies_twice_more_for_every_layer_but_the_first():
    """Without strides: lax counts the zeros between the strides of an input gradient."""
    model = create_model("resnet20_cifar", stage_sizes=(2,), widths=(8,))
    variables, x = abstract_variables(model, (8, 8, 3)), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    first = 8 * 8 * 3 * 3 * 3 * 8
    with ops.reference_forms():
        program = jax.make_jaxpr(gradient(model))(variables, x).jaxpr
    assert multiply_adds(program) == 3 * count(model, (8, 8, 3)).macs - first


@pytest.mark.slow
def test_the_numbers_are_those_of_the_usual_forms():
    """Of a scanned stage that is computed again, with a max-pool and convolutions along the channels."""
    choices: dict[str, Any] = {"stem": "imagenet", "attention": "eca", "execution": "scan", "remat": "block"}
    model = create_model("resnet50", stage_sizes=(3,), widths=(8,), num_classes=3, **choices)
    variables = random_variables(model, (12, 12, 3))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 12, 12, 3)), jnp.float32)
    everything = jax.jit(lambda variables, x: (forward(model)(variables, x), gradient(model)(variables, x)))
    usual = everything(variables, x)
    with ops.reference_forms():
        assert not OWN & executed(everything, variables, x).keys()
        close(everything(variables, x), usual, 2e-4)


def layer(x, w):
    """Every operation of this package that has a primitive."""
    y = ops.conv(x, w, strides=(1, 1), padding=(1, 1))
    mean, var = ops.moments(y[None])
    y = ops.normalize(y[None], mean, lax.rsqrt(var + 1), mean, relu=True)[0]
    return ops.global_mean_pool(ops.max_pool(y, window=2, stride=2, padding=0))


X, W = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 3))
TRANSFORMED = {
    "jit": jax.jit(layer),
    "jit_in_jit": jax.jit(lambda x, w: jax.jit(layer)(x, w) + 1),
    "grad": jax.jit(jax.grad(lambda x, w: jnp.sum(layer(x, w)), (0, 1))),
    "vmap": jax.jit(lambda x, w: jax.vmap(layer, (None, 0))(x, w[None])),
    "scan": lambda x, w: lax.scan(lambda carry, _: (carry + layer(x, w), None), jnp.zeros((2, 3)), None, length=2),
    "checkpoint": jax.grad(jax.checkpoint(lambda x, w: jnp.sum(layer(x, w)))),
    "cond": lambda x, w: lax.cond(x[0, 0, 0, 0] > 0, layer, lambda x, w: x[:, 0, 0], x, w),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_nothing_traced_outside_is_used_inside_or_the_other_way_around(name):
    f = TRANSFORMED[name]
    assert "conv" in executed(f, X, W)
    with ops.reference_forms():
        inside = executed(f, X, W)
        assert inside["conv_general_dilated"]
        assert not OWN & inside.keys()
    assert "conv" in executed(f, X, W)


def test_a_compiled_function_is_compiled_again_inside():
    traces = []

    @jax.jit
    def f(x, w):
        traces.append(1)
        return layer(x, w)

    f(X, W)
    with ops.reference_forms():
        assert "resnet_jax" not in f.lower(X, W).as_text()
        f(X, W)
    f(X, W)
    with ops.reference_forms():
        f(X, W)
    assert len(traces) == 2  # once for each


def test_it_nests_ends_with_an_error_and_decorates_a_function():
    program = functools.partial(executed, layer, X, W)
    with ops.reference_forms():
        with ops.reference_forms():
            pass
        assert not OWN & program().keys()
    assert OWN & program().keys()
    with pytest.raises(TypeError), ops.reference_forms():
        layer(X, W[0])
    assert OWN & program().keys()
    assert not OWN & ops.reference_forms()(program)().keys()
    part = executed(lambda x, w: ops.reference_forms()(layer)(x, w) + layer(x, w), X, W)
    assert part["conv"] == part["conv_general_dilated"] == 1


def test_other_threads_are_not_affected():
    program = functools.partial(executed, layer, X, W)
    with ThreadPoolExecutor(1) as other, ops.reference_forms():
        assert OWN & other.submit(program).result().keys()
        assert not OWN & other.submit(ops.reference_forms()(program)).result().keys()
        assert OWN & other.submit(program).result().keys()
        assert not OWN & program().keys()


def test_a_population_is_one_grouped_convolution():
    with ops.reference_forms():
        jaxpr = jax.make_jaxpr(jax.vmap(layer, (None, 0)))(X, jnp.stack([W, W])).jaxpr
    (found,) = (e for e, _ in equations(jaxpr) if e.primitive.name == "conv_general_dilated")
    assert found.outvars[0].aval.size == 2 * X.size


@pytest.mark.parametrize("name", ["resnet20_cifar", pytest.param("scanned_and_recomputed", marks=pytest.mark.slow)])
def test_an_exported_network_is_plain_without_asking(name):
    row, image, choices = NETWORKS[name]
    model = create_model(row, **choices, stage_sizes=(3,), widths=(4,))
    variables, x = abstract_variables(model, image), jax.ShapeDtypeStruct((1, *image), jnp.float32)
    layers = convolutions(variables)
    exported = export.export(jax.jit(forward(model)))(variables, x)
    if "remat" not in choices:  # a loop holds its convolutions once
        assert exported.mlir_module().count("stablehlo.convolution") == layers
    for program in (exported, exported.vjp(), export.export(jax.jit(gradient(model)))(variables, x)):
        text = program.mlir_module()
        assert "resnet_jax" not in text.replace("resnet_jax/", "")  # but in names of files
        assert "custom_call" not in text
