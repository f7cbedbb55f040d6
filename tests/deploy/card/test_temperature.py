from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax as scipys

from resnet_jax.deploy.card.temperature import calibration, fit_temperature, log_softmax
from resnet_jax.errors import UsageError


def drawn(temperature: float, examples: int = 4000, classes: int = 7, seed: int = 0):
    """Logits whose labels are drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(examples, classes)) * 3
    shares = np.exp(scipys(logits / temperature, axis=1))
    labels = (shares.cumsum(axis=1) < rng.uniform(size=(examples, 1))).sum(axis=1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 9.0])
def test_the_temperature_is_scipys_minimum_and_the_true_one(temperature):
    logits, labels = drawn(temperature)

    def loss(log_temperature: float) -> float:
        return -scipys(logits / np.exp(log_temperature), axis=1)[np.arange(len(labels)), labels].mean()

    found = fit_temperature(logits, labels)
    theirs = float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10}).x))
    assert found == pytest.approx(theirs, rel=1e-6)
    assert found == pytest.approx(temperature, rel=0.1)
    before, after = calibration(logits, labels), calibration(logits, labels, found)
    assert after.loss <= before.loss
    assert after.ece < 0.03


def test_of_two_classes_it_has_a_closed_form():
    """Margins of one size m, a share p of them right: softmax(m / T) = p, so T = m / log(p / (1 - p))."""
    margin, right, wrong = 3.0, 75, 25
    logits = np.tile([margin, 0.0], (right + wrong, 1))
    labels = np.array([0] * right + [1] * wrong)
    assert fit_temperature(logits, labels) == pytest.approx(margin / np.log(3.0), rel=1e-9)
    assert calibration(logits, labels, margin / np.log(3.0)).ece == pytest.approx(0, abs=1e-9)
    assert calibration(logits, labels).ece == pytest.approx(1 / (1 + np.exp(-margin)) - 0.75)


def test_logits_that_are_always_right_are_kept_in_bounds():
    logits = np.eye(3)
    assert 1e-3 <= fit_temperature(logits, np.arange(3)) < 0.05
    assert fit_temperature(logits, np.array([1, 2, 0])) == pytest.approx(1e3, rel=0.01)
    assert np.isfinite(fit_temperature(logits * 1e4, np.array([0, 1, 1])))


def test_what_cannot_be_fitted_is_refused():
    for logits in (np.zeros((0, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(UsageError, match="finite logits of 1 or more"):
            fit_temperature(logits, np.zeros(len(logits), int))


def test_log_softmax_is_scipys():
    logits = np.random.default_rng(0).normal(size=(5, 4)) * 1000
    np.testing.assert_allclose(log_softmax(logits), scipys(logits, axis=1), rtol=1e-12)
