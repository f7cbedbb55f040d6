"""The convolution of inference with a packed kernel: against exact sums and the other forms, and what it refuses."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import ops
from resnet_jax.ops import native
from tests.ops.native.test_finished import CASES as OTHERS, operands

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no compiled convolutions: {native.status()}")

#: As there; those whose kernels are not packed come last.
CASES = [name for name in OTHERS if name not in ("stem", "few_channels", "one_vector")]
SIZES = {name: {"strides": (case[-2],) * 2, "padding": (case[-1],) * 2} for name, case in OTHERS.items()}


@functools.cache
def packed_kernel(name):
    return ops.pack_kernel(jnp.asarray(operands(name)[0][1]), strides=SIZES[name]["strides"])


def convolve(name, bias, skip, relu):
    x, kernel, *more = map(jnp.asarray, operands(name)[0])
    more = [operand if wanted else None for operand, wanted in zip(more, (bias, skip), strict=True)]
    window, features = kernel.shape[:2], kernel.shape[-1]
    return ops.packed_conv(x, packed_kernel(name), *more, window=window, features=features, relu=relu, **SIZES[name])


@pytest.mark.parametrize("name", CASES)
def test_close_to_the_exact_sums(name):
    (_, _, bias, skip), sums = operands(name)
    for has_bias, has_skip, relu in itertools.product((False, True), repeat=3):
        expected = sums + has_bias * bias.astype(np.float64) + has_skip * skip.astype(np.float64)
        got = convolve(name, has_bias, has_skip, relu)
        assert (got.shape, got.dtype) == (expected.shape, jnp.float32)
        expected = np.maximum(expected, 0) if relu else expected
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["pointwise", "pointwise_few_pixels", "strided_few_pixels"])
def test_the_same_numbers_as_with_the_kernel_itself(name):
    (x, kernel, bias, skip), _ = operands(name)
    expected = native.finished(x, kernel, bias, skip, bias=True, relu=True, **SIZES[name])
    np.testing.assert_array_equal(convolve(name, True, True, True), expected)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 33])
def test_an_image_has_the_same_numbers_in_a_batch_of_any_size(count):
    """Few tiles are computed in another order of loops than many."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(count, 7, 7, 64)), jnp.float32)
    for window in (1, 3):
        kernel = jnp.asarray(rng.normal(size=(window, window, 64, 72)), jnp.float32)
        sizes = {"strides": (1, 1), "padding": (window // 2,) * 2}
        packed = ops.pack_kernel(kernel, strides=(1, 1))
        more = {"window": (window, window), "features": 72, **sizes}
        together = ops.packed_conv(x, packed, **more)
        one_by_one = [ops.packed_conv(x[i : i + 1], packed, **more) for i in range(count)]
        np.testing.assert_array_equal(together, jnp.concatenate(one_by_one))


@pytest.mark.parametrize("name", ["few_channels", "stem"])
def test_small_kernels_are_not_packed(name):
    assert packed_kernel(name) is None


@pytest.mark.parametrize("changes", [{"strides": (1, 2)}, {"dilation": (2, 2)}, {"groups": 2}])
def test_what_has_no_compiled_form_is_not_packed(changes):
    assert ops.pack_kernel(jnp.ones((3, 3, 64, 64)), **{"strides": (1, 1), **changes}) is None
    assert ops.pack_kernel(jnp.ones((3, 3, 64, 64), jnp.bfloat16), strides=(1, 1)) is None


@pytest.mark.parametrize("wrong", ["vectors", "layout", "convolution", "size"])
def test_a_kernel_of_another_processor_or_convolution_is_an_error(wrong):
    packed, sizes = packed_kernel("pointwise"), SIZES["pointwise"]
    x, features = jnp.asarray(operands("pointwise")[0][0]), 66
    match wrong:
        case "vectors":
            packed = packed.at[1].multiply(2)
        case "layout":
            packed = packed.at[0].add(1)
        case "convolution":
            x, features = x[..., :66], 130
        case "size":
            packed = packed[:-1]
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="packed for another"):
        jax.block_until_ready(ops.packed_conv(x, packed, window=(1, 1), features=features, **sizes))


def test_only_float32_is_computed_with_a_packed_kernel():
    x = jnp.asarray(operands("pointwise")[0][0], jnp.bfloat16)
    with pytest.raises(TypeError, match="bfloat16"):
        ops.packed_conv(x, packed_kernel("pointwise"), window=(1, 1), features=66, **SIZES["pointwise"])
