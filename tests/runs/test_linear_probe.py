"""The linear probe: features of the frozen network, and scikit-learn's regression on them in one kernel and bias."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from resnet_jax.data.records import ArrayRecords
from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import RunConfig, TrainConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.linear_probe import (
    ENOUGH,
    Features,
    backbone_variables,
    classifier_of,
    features_of,
    fit_probe,
)
from tests.tools import random_variables


def blobs(count: int, classes: int = 3, seed: int = 0, noise: float = 1.0) -> Features:
    """Return features around a centre a class, far from standardized."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(size=(classes, 5))
    values = 50 + np.array([1, 10, 0.1, 3, 1]) * (centres[labels] + noise * rng.normal(size=(count, 5)))
    return Features(values.astype(np.float32), labels)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_kernel_and_bias_are_the_regression_on_standardized_features(classes, balanced):
    train, test = blobs(120, classes), blobs(400, classes, seed=1)
    probe = fit_probe(train, None, classes, balanced=balanced)
    mean, std = train.values.mean(axis=0), train.values.std(axis=0)
    expected = LogisticRegression(C=probe.strength, max_iter=5_000, class_weight="balanced" if balanced else None)
    expected.fit((train.values - mean) / std, train.labels)
    logits = test.values @ probe.kernel + probe.bias
    ours = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(ours, expected.predict_proba((test.values - mean) / std), atol=2e-3)
    assert probe.predict(test.values).tolist() == np.argmax(logits, axis=1).tolist()
    assert (probe.chosen_on, probe.converged, len(probe.tried)) == ("folds", True, 8)


def test_the_penalty_is_chosen_where_it_was_not_fitted(monkeypatch):
    monkeypatch.setattr("resnet_jax.runs.linear_probe.STRENGTHS", (1e-4, 0.1, 1.0))
    train, val = blobs(30, noise=3.0), blobs(ENOUGH, seed=2, noise=3.0)
    probe = fit_probe(train, val, 3)
    assert probe.chosen_on == "validation"
    accuracies = dict(probe.tried)
    assert accuracies[probe.strength] == max(accuracies.values())
    found = np.mean(probe.predict(val.values) == val.labels)
    assert accuracies[probe.strength] == pytest.approx(found, abs=0.021), "that of the probe itself, on validation"
    few = Features(val.values[: ENOUGH - 1], val.labels[: ENOUGH - 1])
    assert fit_probe(train, few, 3).chosen_on == "folds"
    alone = Features(np.concatenate([train.values, train.values[:1] + 1]), np.append(train.labels, 3))
    assert fit_probe(alone, None, 4).chosen_on == "nothing", "a class of one example has no folds"


def test_what_no_probe_can_learn(monkeypatch):
    monkeypatch.setattr("resnet_jax.runs.linear_probe.STRENGTHS", (0.1, 1.0))
    train = blobs(60)
    probe = fit_probe(dataclasses.replace(train, labels=train.labels * 2), None, 6)
    assert set(probe.predict(train.values).tolist()) <= {0, 2, 4}, "classes without examples"
    shuffled = dataclasses.replace(train, labels=np.random.default_rng(0).permutation(train.labels))
    assert np.mean(fit_probe(shuffled, None, 3).predict(blobs(600, seed=3).values) == blobs(600).labels) < 0.6
    constant = Features(np.column_stack([train.values, np.full(60, 7.0)]).astype(np.float32), train.labels)
    assert np.isfinite(fit_probe(constant, None, 3).kernel).all(), "a feature that never moves"
    with pytest.raises(UsageError, match="all 60 training examples are of one"):
        fit_probe(dataclasses.replace(train, labels=np.zeros(60, int)), None, 3)


@pytest.mark.slow
def test_features_are_the_frozen_network_s_with_its_own_statistics():
    spec = ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,))
    config = RunConfig(model=spec, train=TrainConfig(batch_size=4))
    card = DatasetInfo(("a", "b", "c"), (8, 8, 3), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), {})
    source = random_variables(build_model(config, dataclasses.replace(card, class_names=tuple("abcde"))), (8, 8, 3))
    model = build_model(config, card)
    variables = backbone_variables(source, model, card.image_shape, stem="exact")
    assert not variables["params"]["head"]["kernel"].any()
    assert variables["params"]["head"]["kernel"].shape == (4, 3)
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)
    found = features_of(config, model, card, variables, ArrayRecords(images, np.arange(10) % 3))
    x = (images / np.float32(255) - np.float32(card.mean)) / np.float32(card.std)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False, method="features"))
    np.testing.assert_allclose(found.values, apply(variables, x.astype(np.float32))["pooled"], rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == (np.arange(10) % 3).tolist()
    head = classifier_of(source)
    assert head is not None
    np.testing.assert_array_equal(head[0], source["params"]["head"]["kernel"])
    assert classifier_of({"params": {"stem": {"conv": {"kernel": images}}}}) is None
