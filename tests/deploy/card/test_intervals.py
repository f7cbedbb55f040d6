from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from resnet_jax.deploy.card.intervals import bootstrap, wilson
from resnet_jax.errors import UsageError


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), Statistics in Medicine 17, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_that_of_newcombes_table(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (932, 1017), (3, 8)])
def test_wilson_is_that_of_scipy(successes, trials):
    theirs = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_of_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(UsageError, match="4 of 3 is not a proportion"):
        wilson(4, 3)


def test_the_bootstrap_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(1).normal(size=2000)
    low, high = bootstrap(lambda index: float(values[index].mean()), len(values))
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.006)
