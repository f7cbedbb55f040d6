"""Similarity and probes against dense formulas on materialised outputs and least squares by NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from resnet_jax import depth
from resnet_jax.depth.similarity import fit_ridge, unbiased_hsic
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockNames, instrumented
from resnet_jax.models import create_model
from resnet_jax.models.layout import stack
from tests.tools import random_variables

CHOICES: dict[str, Any] = {"stage_sizes": (1, 3), "widths": (4, 8), "num_classes": 3}
IMAGES = np.random.default_rng(0).normal(size=(12, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    model = create_model("resnet20_cifar", execution="unroll", **CHOICES)
    return model, random_variables(model, (8, 8, 3))


@pytest.fixture(scope="module")
def outputs(network):
    model, variables = network

    @jax.jit
    def run(images):
        seen = []

        def keep(block, point, x):
            seen.extend([x] if point == "output" else [])
            return x

        with instrumented(BlockNames(), keep):
            model.apply(variables, images, train=False)
        return seen

    return [np.asarray(x, np.float64) for x in run(IMAGES)]


def estimate_by_tuples(k, other):
    """Return HSIC as its definition: the mean of a kernel over all tuples of different examples."""
    n = len(k)
    pairs = np.mean([k[i, j] * other[i, j] for i, j in itertools.permutations(range(n), 2)])
    fours = np.mean([k[i, j] * other[q, r] for i, j, q, r in itertools.permutations(range(n), 4)])
    threes = np.mean([k[i, j] * other[i, q] for i, j, q in itertools.permutations(range(n), 3)])
    return pairs + fours - 2 * threes


def test_hsic_is_the_mean_over_tuples_of_different_examples():
    x = np.random.default_rng(1).normal(size=(3, 6, 4))
    grams = x @ x.transpose(0, 2, 1)
    found = unbiased_hsic(grams)
    for a, b in itertools.product(range(3), repeat=2):
        assert found[a, b] == pytest.approx(estimate_by_tuples(grams[a], grams[b]))


def test_one_batch_is_the_dense_formula_and_does_not_see_rotation_and_scale(network, outputs):
    model, variables = network
    found = depth.linear_cka(model, variables, [IMAGES])
    assert found.names == ("stage1/block0", "stage2/block0", "stage2/block1", "stage2/block2")
    assert found.stage.tolist() == [0, 1, 1, 1]
    flat = [x.reshape(12, -1) for x in outputs]
    hsic = unbiased_hsic(np.stack([3.0 * x @ x.T for x in flat]))
    np.testing.assert_allclose(found.cka, hsic / np.sqrt(np.outer(hsic.diagonal(), hsic.diagonal())), atol=1e-4)
    assert np.min(found.cka) < 0.95


def test_batches_accumulate(network, outputs, tmp_path):
    model, variables = network
    found = depth.linear_cka(model, variables, [IMAGES[:6], IMAGES[6:]])
    flat = [x.reshape(12, -1) for x in outputs]
    hsic = np.sum([unbiased_hsic(np.stack([x[i : i + 6] @ x[i : i + 6].T for x in flat])) for i in (0, 6)], axis=0)
    np.testing.assert_allclose(found.cka, hsic / np.sqrt(np.outer(hsic.diagonal(), hsic.diagonal())), atol=1e-4)
    found.save(tmp_path / "s.npz")
    again = depth.Similarity.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(again.cka, found.cka)
    assert (again.names, again.about) == (found.names, {"images": 12, "batches": 2})


def test_scanned_networks_give_the_same(network):
    model, variables = network
    scanned, stacked = create_model("resnet20_cifar", execution="scan", **CHOICES), stack(variables, "scan")
    listed, looped = depth.linear_cka(model, variables, [IMAGES]), depth.linear_cka(scanned, stacked, [IMAGES])
    assert looped.names == listed.names
    np.testing.assert_allclose(looped.cka, listed.cka, atol=1e-4)


def test_ridge_against_least_squares_with_rows_for_the_penalty():
    rng = np.random.default_rng(2)
    x, y, ridge = rng.normal(size=(20, 5)) + 3, rng.normal(size=(20, 2)), 0.3
    rows = np.vstack([np.hstack([x, np.ones((20, 1))]), np.hstack([np.sqrt(20 * ridge) * np.eye(5), np.zeros((5, 1))])])
    expected = np.linalg.lstsq(rows, np.vstack([y, np.zeros((5, 2))]))[0]
    weight, bias = fit_ridge(x, y, ridge)
    np.testing.assert_allclose(weight, expected[:5])
    np.testing.assert_allclose(bias, expected[5])


def test_probes_are_ridge_classifiers_on_pooled_outputs(network, outputs, tmp_path):
    model, variables = network
    labels = np.random.default_rng(3).integers(3, size=12)
    found = depth.linear_probes(model, variables, IMAGES[:7], labels[:7], IMAGES[7:], labels[7:], ridge=0.5, batch=3)
    assert found.features.tolist() == [4, 8, 8, 8]
    for index, x in enumerate(outputs):
        pooled = x.mean(axis=(1, 2))
        pooled = (pooled - pooled[:7].mean(0)) / pooled[:7].std(0)
        weight, bias = fit_ridge(pooled[:7], np.eye(3)[labels[:7]], 0.5)
        right = np.argmax(pooled @ weight + bias, axis=1) == labels
        assert (found.train_accuracy[index], found.test_accuracy[index]) == (right[:7].mean(), right[7:].mean())
    found.save(tmp_path / "p.npz")
    again = depth.LinearProbes.load(tmp_path / "p.npz")
    np.testing.assert_array_equal(again.test_accuracy, found.test_accuracy)


def test_bad_input_is_named(network, tmp_path):
    model, variables = network
    for message, call in {
        "at least one batch": lambda: depth.linear_cka(model, variables, []),
        "at least 4 examples, got 3": lambda: depth.linear_cka(model, variables, [IMAGES[:3]]),
        "12 test images": lambda: depth.linear_probes(
            model, variables, IMAGES, np.zeros(12, int), IMAGES, np.zeros(1, int)
        ),
        "positive": lambda: fit_ridge(np.ones((2, 1)), np.ones((2, 1)), 0.0),
    }.items():
        with pytest.raises(UsageError, match=message):
            call()
    np.savez(tmp_path / "other.npz", cka=np.zeros(2))
    with pytest.raises(UsageError, match="it has no names"):
        depth.Similarity.load(tmp_path / "other.npz")
