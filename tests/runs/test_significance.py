"""Student's and Welch's tests, against scipy.stats and printed tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from resnet_jax.runs.significance import paired, welch

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_pairs_are_judged_as_scipy_does(n):
    first, second = RNG.normal(0.9, 0.01, n), RNG.normal(0.89, 0.02, n)
    found, known = paired([*first], [*second]), stats.ttest_rel(first, second)
    interval = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.how, found.seeds, found.freedom) == ("paired", (n, n), n - 1)
    assert found.distinguishable == (known.pvalue < 0.05)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (12, 4)])
def test_others_are_judged_as_scipy_does(n, m):
    first, second = RNG.normal(0.9, 0.01, n), RNG.normal(0.8, 0.03, m)
    found, known = welch([*first], [*second]), stats.ttest_ind(first, second, equal_var=False)
    interval = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.how, found.seeds, found.freedom) == ("welch", (n, m), pytest.approx(known.df))


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_the_intervals_are_those_of_the_printed_table(freedom, quantile):
    values = np.arange(freedom + 1.0)
    found = paired([*values], [0.0] * (freedom + 1))
    error = values.std(ddof=1) / math.sqrt(freedom + 1)
    assert (found.high - found.mean) / error == pytest.approx(quantile, abs=6e-4)


def test_pairs_see_what_seeds_hide():
    noise = [0.0, 0.1, 0.2]
    first = [value + extra for value, extra in zip(noise, (0.010, 0.011, 0.012), strict=True)]
    assert paired(first, noise).distinguishable
    assert not welch(first, noise).distinguishable


def test_values_that_do_not_vary_are_no_evidence():
    for found in (paired([0.3, 0.4], [0.1, 0.2]), welch([0.5, 0.5], [0.4, 0.4])):
        assert found.spreadless
        assert not found.distinguishable
        assert found.low == found.mean == found.high


def test_one_value_is_refused():
    for test in (paired, welch):
        with pytest.raises(ValueError, match="two"):
            test([1.0], [2.0])
    with pytest.raises(ValueError, match="two pairs"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])
