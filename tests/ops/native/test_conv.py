"""The compiled convolutions against ``lax``: every form they have inside, and no influence of the threads."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.ops import conv_spec, native
from resnet_jax.ops.conv_spec import ConvSpec
from tests.ops import exact

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no compiled convolutions: {native.status()}")

OPERATIONS = ("forward", "input_gradient", "weight_gradient")

#: n, (height, width), input and output channels, window, stride, padding.
CASES = {
    "one_vector": (2, (8, 8), 16, 16, (3, 3), 1, (1, 1)),
    "narrow": (2, (7, 5), 1, 1, (3, 3), 1, (1, 1)),
    "stem_of_cifar": (3, (9, 8), 3, 16, (3, 3), 1, (1, 1)),
    "stem": (2, (15, 14), 3, 64, (7, 7), 2, (3, 3)),
    "uneven_channels": (2, (9, 9), 33, 47, (3, 3), 2, (0, 0)),
    "pointwise": (3, (5, 7), 70, 130, (1, 1), 1, (0, 0)),
    "pointwise_many_channels": (2, (5, 5), 300, 40, (1, 1), 1, (0, 0)),
    "pointwise_strided": (3, (7, 8), 70, 33, (1, 1), 2, (0, 0)),
    "pointwise_strided_colours": (3, (7, 8), 3, 20, (1, 1), 2, (0, 0)),
    "pointwise_padded": (2, (5, 4), 24, 72, (1, 1), 1, (1, 2)),
    "pointwise_strided_padded": (2, (5, 4), 20, 18, (1, 1), 2, (1, 1)),
    "winograd": (2, (14, 14), 64, 64, (3, 3), 1, (1, 1)),
    "winograd_uneven": (3, (5, 7), 70, 90, (3, 3), 1, (0, 0)),
    "winograd_odd_blocks": (2, (7, 7), 96, 160, (3, 3), 1, (1, 1)),
    "winograd_fewest_channels": (2, (9, 7), 24, 31, (3, 3), 1, (1, 1)),
    "odd_blocks_strided": (2, (7, 7), 96, 160, (3, 3), 2, (1, 1)),
    "winograd_overpadded": (2, (4, 5), 40, 33, (3, 3), 1, (2, 3)),
    "winograd_one_pixel": (1, (1, 1), 32, 32, (3, 3), 1, (1, 1)),
    "winograd_many_tiles": (4, (20, 22), 32, 40, (3, 3), 1, (1, 1)),
    "nine_taps_in_a_row": (2, (5, 12), 32, 40, (1, 9), 1, (0, 4)),
    "nine_taps_in_a_column": (2, (12, 5), 40, 32, (9, 1), 1, (4, 0)),
    "even_window": (2, (12, 11), 12, 9, (2, 4), 2, (1, 2)),
    "wide_window": (1, (6, 9), 20, 18, (5, 5), 1, (4, 2)),
    "stride_without_padding": (2, (9, 10), 18, 20, (3, 3), 2, (0, 0)),
    "pixels_that_nothing_reads": (2, (8, 8), 5, 6, (3, 3), 2, (0, 0)),
    "many_bands": (2, (70, 66), 36, 20, (3, 3), 1, (1, 0)),
}


@functools.cache
def operands(case, seed=0):
    n, size, c, k, window, stride, padding = case
    spec = ConvSpec(size, window, (stride, stride), padding, (1, 1))
    rng = np.random.default_rng(seed)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((n, *size, c), (*window, c, k)))
    out = jax.eval_shape(lambda x, w: conv_spec.forward(x, w, spec), x, w)
    g = rng.normal(size=out.shape).astype(np.float32)
    return spec, {"forward": (x, w), "input_gradient": (g, w), "weight_gradient": (x, g)}


@functools.cache
def expected_of(case, seed):
    """Return all three results exactly, computed once for a case."""
    spec, pairs = operands(case, seed)
    conv = exact.Conv(strides=spec.strides, padding=spec.padding)
    (x, w), g = pairs["forward"], pairs["input_gradient"][0]
    return dict(zip(OPERATIONS, (conv(x, w), *conv.vjp(x, w, g)), strict=True))


def check(case, operation, seed=0, tolerance=3e-6):
    spec, pairs = operands(case, seed)
    got = getattr(native, operation)(*pairs[operation], spec)
    expected = expected_of(case, seed)[operation]
    assert (got.shape, got.dtype) == (expected.shape, jnp.float32)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-30))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", CASES)
def test_close_to_the_exact_sums(name, operation):
    """Also where Winograd's form is taken: the largest error is some 1e-7 of the largest value."""
    assert native.takes(operands(CASES[name])[0], jnp.float32)
    check(CASES[name], operation)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    window=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    stride=st.integers(1, 2),
    n=st.integers(1, 3),
    c=st.integers(1, 70),
    k=st.integers(1, 70),
)
def test_any_convolution(window, padding, extra, stride, n, c, k):
    size = tuple(max(1, w - 2 * p) + e for w, p, e in zip(window, padding, extra, strict=True))
    for operation in OPERATIONS:
        check((n, size, c, k, window, stride, padding), operation)


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": (1, 2)},
        {"strides": (3, 3)},
        {"dilation": (2, 1)},
        {"groups": 2},
        {"size": (8,), "window": (3,), "strides": (1,), "padding": (1,), "dilation": (1,)},
    ],
)
def test_what_is_left_to_xla(changes):
    plain = {"size": (8, 8), "window": (3, 3), "strides": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    assert native.takes(ConvSpec(**plain), jnp.float32)
    assert not native.takes(ConvSpec(**(plain | changes)), jnp.float32)
    assert not native.takes(ConvSpec(**plain), jnp.bfloat16)


@jax.jit
def everything(pairs):
    """Compute every result of every case, in one program."""
    return [
        getattr(native, operation)(*of_case[operation], operands(case)[0])
        for case, of_case in zip(CASES.values(), pairs, strict=True)
        for operation in OPERATIONS
    ]


def digest() -> str:
    """Return a digest of every result of every case."""
    found = hashlib.sha256()
    for result in everything([operands(case)[1] for case in CASES.values()]):
        found.update(np.asarray(result).tobytes())
    return found.hexdigest()


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_threads():
    """Bit for bit: here as many threads as devices at least, there a single one."""
    program = "import jax; from tests.ops.native import test_conv; print(test_conv.digest())"
    alone = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"NPROC": "1"}, capture_output=True, text=True, check=True
    )
    assert alone.stdout.strip() == digest() == digest()


def test_many_at_once():
    """Calls from many threads share a pool of threads, and each thread its memory between calls of all sizes."""
    expected = digest()
    with ThreadPoolExecutor(4) as pool:
        assert {future.result() for future in [pool.submit(digest) for _ in range(4)]} == {expected}


def test_inside_a_program_that_runs_them_side_by_side():
    spec, pairs = operands(CASES["many_bands"])
    x, w = pairs["forward"]
    ws = jnp.stack([w * i for i in range(8)])
    together = jax.jit(lambda x, ws: [native.forward(x, w, spec) for w in ws])(x, ws)
    one = jax.jit(lambda x, w: native.forward(x, w, spec))
    for got, w in zip(together, ws, strict=True):
        np.testing.assert_array_equal(got, one(x, w))
