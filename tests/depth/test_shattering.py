"""Gradients along lines against derivatives by hand, autocorrelations of known noise, theorems against simulation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import depth
from resnet_jax.depth.shattering import autocorrelation, gradient_correlation, gradients_along_line
from resnet_jax.errors import UsageError
from resnet_jax.models import create_model
from resnet_jax.models.layout import stack
from tests.tools import random_variables


def test_gradients_of_a_cubic_form_whatever_the_batch():
    matrix = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    start, stop = np.asarray([1, -1, 2], np.float32), np.asarray([0, 3, 1], np.float32)

    def cubic(x):
        return jnp.sum((matrix @ x) ** 3)

    points = np.linspace(start, stop, 7)
    expected = 3 * (points @ matrix.T) ** 2 @ matrix
    for batch in (1, 3, 7, 100):
        values, gradients = gradients_along_line(cubic, start, stop, 7, batch=batch)
        np.testing.assert_allclose(gradients, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(values, np.sum((points @ matrix.T) ** 3, axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("unbiased", [True, False])
def test_autocorrelation_is_the_sum_it_says(center, unbiased):
    walk = np.cumsum(np.random.default_rng(1).normal(size=(9, 2, 3)), axis=0) + 1
    found = autocorrelation(1e30 * walk, 4, center=center, unbiased=unbiased)
    g = walk - walk.mean(0) if center else walk
    for lag in range(5):
        products = [np.sum(g[i] * g[i + lag]) for i in range(9 - lag)]
        total = np.sum(g * g)
        expected = np.mean(products) / (total / 9) if unbiased else np.sum(products) / total
        assert found[lag] == pytest.approx(expected)


def test_white_noise_is_uncorrelated_and_a_random_walk_falls_slowly():
    n, lags = 256, 15
    noise = np.random.default_rng(2).normal(size=(n, 4000))
    white, brown = autocorrelation(noise, lags), autocorrelation(np.cumsum(noise, axis=0), lags)
    k = np.arange(1, lags + 1)
    expected = -(n - k) / (n * (n - 1))
    np.testing.assert_allclose(white[1:], expected, atol=0.004)  # four standard deviations
    assert np.mean(white[1:]) == pytest.approx(np.mean(expected), abs=0.001)
    steps, centre = np.tril(np.ones((n, n))), np.eye(n) - 1 / n
    covariance = centre @ steps @ steps.T @ centre
    exact = np.asarray([np.trace(covariance, lag) for lag in k]) / np.trace(covariance)
    np.testing.assert_allclose(brown[1:], exact, atol=0.008)
    np.testing.assert_allclose(exact[:5], 1 - 5 * k[:5] / n, atol=0.003)


def gates(layers, rng, width, coactivity):
    """Return the gates of two inputs, each open for half of the units, independent of everything."""
    first = rng.random((layers, width)) < 0.5
    same = np.where(first, coactivity, 1 - coactivity)
    return first, rng.random((layers, width)) < same


@pytest.mark.parametrize(("skip", "beta"), [(False, None), (True, None), (True, 0.5)])
@pytest.mark.parametrize("coactivity", [0.5, 0.8])
def test_theorems_against_networks_with_independent_gates(skip, beta, coactivity):
    layers, width, draws = 3, 100, 480
    rng, sums = np.random.default_rng(3), np.zeros(3)
    for _ in range(draws):
        both = gates(layers, rng, width, coactivity)
        a = b = rng.normal(size=width)
        for layer in reversed(range(layers)):
            weight = rng.normal(size=(width, width)) * np.sqrt(2 / width)
            share = 1.0 if beta is None else beta / np.sqrt(beta**2 * layer + 1)
            a = skip * a + share * both[0][layer] * (weight.T @ a)
            b = skip * b + share * both[1][layer] * (weight.T @ b)
        sums += [a @ b, a @ a, b @ b]
    measured = sums[0] / np.sqrt(sums[1] * sums[2])
    expected = gradient_correlation(layers, skip=skip, beta=beta, coactivity=coactivity)
    # One run of so many draws has a standard deviation of at most 0.006 (30 runs of a quarter of them: 0.012).
    assert measured == pytest.approx(expected, abs=0.024)


@pytest.mark.parametrize("skip", [True, False])
def test_wide_rectifier_nets_have_the_correlation_of_their_kernel(skip):
    layers, width, cosine = 3, 400, 0.3
    rng, sums = np.random.default_rng(4), np.zeros(3)
    for _ in range(8):
        x = rng.normal(size=(width, 2))
        x[:, 1] = cosine * x[:, 0] + np.sqrt(1 - cosine**2) * x[:, 1]
        weights = [rng.normal(size=(width, width)) * np.sqrt(2 / width) for _ in range(layers)]
        h, opened = x, []
        for weight in weights:
            opened.append(h > 0)
            h = skip * h + weight @ np.maximum(h, 0)
        g = np.repeat(rng.normal(size=(width, 1)), 2, axis=1)
        for weight, gate in zip(reversed(weights), reversed(opened), strict=True):
            g = skip * g + gate * (weight.T @ g)
        sums += [g[:, 0] @ g[:, 1], *np.sum(g * g, axis=0)]
    measured = sums[0] / np.sqrt(sums[1] * sums[2])
    assert depth.wide_gradient_correlation(cosine, layers, skip=skip) == pytest.approx(measured, abs=0.03)


def test_batch_norm_with_skips_shatters_sublinearly():
    for layers in (10, 100, 1000):
        product = gradient_correlation(layers, skip=True, beta=1.0)
        assert 0.8 < product * np.sqrt(layers) < 1.3


CHOICES: dict[str, Any] = {"stage_sizes": (1, 3), "widths": (4, 8), "num_classes": 3}


@pytest.fixture(scope="module")
def network():
    model = create_model("resnet20_cifar", execution="unroll", **CHOICES)
    return model, random_variables(model, (8, 8, 3))


def ends():
    return np.random.default_rng(5).normal(size=(2, 8, 8, 3)).astype(np.float32)


@pytest.mark.slow
def test_network_against_finite_differences_and_scanned(network):
    model, variables = network
    start, stop = ends()
    found = depth.measure_shattering(model, variables, start, stop, 6, of="loss", label=1, lags=2, batch=4)
    scanned = depth.measure_shattering(
        create_model("resnet20_cifar", execution="scan", **CHOICES), stack(variables, "scan"),
        start, stop, 6, of="loss", label=1, lags=2, batch=4,
    )  # fmt: skip
    np.testing.assert_allclose(scanned.autocorrelation, found.autocorrelation, atol=1e-4)

    def loss(x):
        return -jax.nn.log_softmax(model.apply(variables, x[None], train=False)[0])[1]

    values, gradients = gradients_along_line(loss, start, stop, 6, batch=6)
    np.testing.assert_allclose(found.value, values, rtol=1e-4)
    np.testing.assert_allclose(found.grad_norm, np.linalg.norm(gradients.reshape(6, -1), axis=1), rtol=1e-3)
    np.testing.assert_allclose(found.autocorrelation, autocorrelation(gradients, 2), atol=1e-4)
    assert found.about["of"] == "loss of class 1"


@pytest.mark.slow
def test_statistics_of_the_line_are_those_of_the_batch(network, tmp_path):
    model, variables = network
    start, stop = ends()
    found = depth.measure_shattering(model, variables, start, stop, 6, of=2, lags=2, statistics="line", batch=4)
    logits = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"])[0])(
        np.linspace(start, stop, 6).astype(np.float32)
    )
    np.testing.assert_allclose(found.value, logits[:, 2], rtol=1e-3, atol=1e-4)
    found.save(tmp_path / "s.npz")
    again = depth.Shattering.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(again.cosine, found.cosine)
    assert again.about == found.about


def test_bad_input_is_named(network, tmp_path):
    model, variables = network
    start, stop = ends()
    for message, call in {
        "one shape": lambda: gradients_along_line(jnp.sum, np.zeros(2), np.zeros(3), 4),
        "at least 2": lambda: gradients_along_line(jnp.sum, np.zeros(2), np.zeros(2), 1),
        "one point": lambda: gradients_along_line(jnp.sum, np.zeros(2), np.zeros(2), 2, batch=0),
        "not 4": lambda: autocorrelation(np.arange(4.0), 4),
        "all equal": lambda: autocorrelation(np.ones(4), 2),
        "classes 0 to 2": lambda: depth.measure_shattering(model, variables, start, stop, 4, of=3),
        "'loss'": lambda: depth.measure_shattering(model, variables, start, stop, 4, of="logit"),
        "'line'": lambda: depth.measure_shattering(model, variables, start, stop, 4, statistics="batch"),
        "skip=True": lambda: gradient_correlation(3, beta=0.1),
        "share": lambda: gradient_correlation(3, coactivity=2.0),
        "cosine": lambda: depth.wide_gradient_correlation(2.0, 3),
    }.items():
        with pytest.raises(UsageError, match=message):
            call()
    np.savez(tmp_path / "other.npz", value=np.zeros(2))
    with pytest.raises(UsageError, match="it has no position"):
        depth.Shattering.load(tmp_path / "other.npz")
