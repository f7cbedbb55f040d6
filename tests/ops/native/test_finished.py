"""The compiled convolution of inference against exact sums: every form inside, and no influence of the threads."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops import native
from tests.ops import exact

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no compiled convolutions: {native.status()}")

#: n, (height, width), input and output channels, side of the window, stride, padding.
CASES = {
    "stem": (2, (15, 15), 3, 64, 7, 2, 3),
    "few_channels": (2, (9, 11), 5, 17, 3, 1, 1),
    "one_vector": (2, (8, 8), 16, 8, 1, 1, 0),
    "pointwise_few_pixels": (1, (7, 7), 70, 100, 1, 1, 0),
    "pointwise_few_pixels_many_channels": (1, (5, 6), 600, 40, 1, 1, 0),
    "pointwise": (5, (30, 31), 130, 66, 1, 1, 0),
    "pointwise_strided": (4, (28, 27), 70, 130, 1, 2, 0),
    "pointwise_padded": (1, (6, 6), 33, 48, 1, 1, 1),
    "one_pixel": (1, (1, 1), 8, 40, 1, 1, 0),
    "more_sums_than_a_chunk": (8, (8, 8), 1300, 64, 1, 1, 0),
    "winograd": (2, (9, 11), 33, 70, 3, 1, 1),
    "winograd_odd_blocks": (4, (9, 9), 96, 72, 3, 1, 1),
    "too_few_pixels_for_winograd": (1, (4, 4), 96, 72, 3, 1, 1),
    "overpadded": (1, (3, 3), 72, 64, 3, 1, 2),
    "strided_few_pixels": (1, (9, 8), 130, 80, 3, 2, 1),
    "strided_narrow_rows": (10, (14, 13), 130, 64, 3, 2, 1),
    "strided_wide_rows": (1, (9, 120), 64, 72, 3, 2, 1),
}


@functools.cache
def operands(name):
    n, size, c, k, window, stride, pad = CASES[name]
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(n, *size, c)), rng.normal(size=(window, window, c, k))
    sums = exact.Conv(strides=(stride,) * 2, padding=(pad,) * 2)(x.astype(np.float32), kernel.astype(np.float32))
    more = rng.normal(size=k), rng.normal(size=sums.shape) * sums.std()
    return tuple(a.astype(np.float32) for a in (x, kernel, *more)), sums


def finished(name, bias, skip, relu):
    stride, pad = CASES[name][-2:]
    (x, kernel, *more), _ = operands(name)
    more = [operand for operand, wanted in zip(more, (bias, skip), strict=True) if wanted]
    window = {"strides": (stride,) * 2, "padding": (pad,) * 2}
    return native.finished(x, kernel, *more, bias=bias, relu=relu, **window)


@pytest.mark.parametrize("name", CASES)
def test_close_to_the_exact_sums(name):
    (_, _, bias, skip), sums = operands(name)
    for has_bias, has_skip, relu in itertools.product((False, True), repeat=3):
        expected = sums + has_bias * bias.astype(np.float64) + has_skip * skip.astype(np.float64)
        got = finished(name, has_bias, has_skip, relu)
        assert (got.shape, got.dtype) == (expected.shape, jnp.float32)
        expected = np.maximum(expected, 0) if relu else expected
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_what_is_not_a_number_is_seen_after_a_relu():
    x = np.full((1, 4, 4, 32), np.nan, np.float32)
    for window in (1, 3):
        kernel = np.ones((window, window, 32, 64), np.float32)
        pad = (window // 2,) * 2
        y = native.finished(x, kernel, strides=(1, 1), padding=pad, bias=False, relu=True)
        assert np.isnan(y).all()


def digest() -> str:
    """Return a digest of every result."""
    found = hashlib.sha256()
    for name in CASES:
        found.update(np.asarray(finished(name, True, True, True)).tobytes())
    return found.hexdigest()


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_threads():
    program = "import jax; from tests.ops.native import test_finished; print(test_finished.digest())"
    alone = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"NPROC": "1"}, capture_output=True, text=True, check=True
    )
    assert alone.stdout.strip() == digest() == digest()


@pytest.mark.parametrize(
    "changes", [{"strides": (1, 2)}, {"strides": (3, 3)}, {"dilation": (2, 1)}, {"groups": 2}, {"dims": 1}]
)
def test_what_is_left_to_xla(changes):
    plain = {"dims": 2, "strides": (1, 1), "dilation": (1, 1), "groups": 1}
    assert native.takes_finished(**plain)
    assert not native.takes_finished(**(plain | changes))


def test_memory_of_a_call_is_of_its_own_size():
    """A small call after a large one, and the other way around, in one process."""
    names = ["pointwise", "one_pixel", "winograd", "pointwise"]
    results = [np.asarray(jax.block_until_ready(finished(name, True, False, True))) for name in names]
    np.testing.assert_array_equal(results[0], results[-1])
