"""Volumes composed of digits: one a digit, always the same, a bar through depth whose cross-section is the digit."""

from __future__ import annotations

import numpy as np

from resnet_jax.data.digits import load_digits
from resnet_jax.data.kinds.digits_3d import LENGTH, NOISE, SIDE, compose
from resnet_jax.data.registry import find_source

DIGITS = load_digits().splits["all"]


def test_a_volume_is_a_digit_through_depth():
    rng = np.random.default_rng(0)
    for index in rng.choice(len(DIGITS), 12, replace=False).tolist():
        digit = DIGITS[index]["image"][..., 0]
        volume = compose(digit, index)
        assert volume.shape == (SIDE,) * 3
        np.testing.assert_array_equal(volume, compose(digit, index))
        inside = volume.reshape(SIDE, -1).max(axis=1) > 10 * NOISE
        (where,) = np.nonzero(inside)
        assert LENGTH[0] <= len(where) <= LENGTH[1]
        assert (np.diff(where) == 1).all(), "one bar"
        ink = volume[inside].astype(float).sum(axis=(1, 2)) - volume[~inside].astype(float).sum(axis=(1, 2)).mean()
        # where there is no ink the noise is cut off at 0, so its mean is taken off too much where there is
        np.testing.assert_allclose(ink, float(digit.sum()), rtol=0.2)


def test_other_volumes_of_a_digit_differ():
    digit = DIGITS[0]["image"][..., 0]
    assert np.abs(compose(digit, 0).astype(int) - compose(digit, 1)).mean() > 5


def test_it_is_a_source():
    found = find_source("digits_3d")
    assert found is not None
    assert found.form == "digits_3d"
