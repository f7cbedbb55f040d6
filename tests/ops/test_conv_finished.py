"""Convolution with what follows it, as JAX sees it: against its parts, its derivatives, and where it is compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import ops
from tests.ops import exact

WINDOW = {"strides": (2, 2), "padding": (1, 1)}
CALL = "resnet_jax_conv_finished"


@pytest.fixture(scope="module")
def operands():
    rng = np.random.default_rng(0)
    shapes = (2, 5, 6, 3), (3, 3, 3, 8), (8,), (2, 3, 3, 8)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def layer(x, kernel, bias, skip):
    return ops.finished_conv(x, kernel, bias, skip, relu=True, **WINDOW)


def parts(x, kernel, bias, skip):
    return jax.nn.relu(skip + (ops.conv(x, kernel, **WINDOW) + jnp.reshape(bias, (1, 1, 1, -1))))


@pytest.mark.slow
def test_it_is_its_parts_in_either_form(form, operands):
    exact.close(jax.jit(layer)(*operands), parts(*operands))
    exact.close(layer(*operands), parts(*operands))


def test_its_gradient_is_that_of_its_parts(operands):
    def loss(function):
        return lambda operands: jnp.sum(jnp.sin(function(*operands)))

    exact.close(jax.jit(jax.grad(loss(layer)))(operands), jax.jit(jax.grad(loss(parts)))(operands))
    both = [jax.jvp(function, operands, operands) for function in (layer, parts)]
    exact.close(*both)


@pytest.mark.parametrize("axes", [(0, None, None, 0), (None, 0, None, None), (1, 3, 0, None)])
def test_it_maps_over_any_operand(axes, operands):
    given = tuple(
        operand if axis is None else jnp.stack([operand, 2 * operand, -operand], axis)
        for operand, axis in zip(operands, axes, strict=True)
    )
    exact.close(jax.vmap(layer, axes)(*given), jax.vmap(parts, axes)(*given))


@pytest.mark.parametrize("form", ["compiled"], indirect=True)
def test_it_is_compiled_where_one_cpu_has_float32(form, operands):
    def calls(function, *operands):
        return jax.jit(function).lower(*operands).as_text().count(CALL)

    half = tuple(a.astype(jnp.bfloat16) for a in operands)
    assert calls(layer, *operands) == 1
    assert calls(layer, *half) == 0
    assert calls(ops.in_forms("plain", layer), *operands) == 0
    assert calls(lambda *a: ops.finished_conv(*a, strides=(1, 1), padding=(1, 1), dilation=(2, 2)), *operands[:3]) == 0


@pytest.mark.parametrize("absent", [(2,), (3,), (2, 3)])
def test_bias_and_skip_may_be_absent(absent, operands):
    given = [None if i in absent else operand for i, operand in enumerate(operands)]
    plain = [jnp.zeros_like(operand) if i in absent else operand for i, operand in enumerate(operands)]
    exact.close(jax.jit(layer)(*given), parts(*plain))
