"""Losses for noisy labels: their limits, what they do at a wrong label, options, and digits with labels flipped."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.digits import load_digits
from resnet_jax.errors import UsageError
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.losses import (
    cross_entropy,
    generalized_cross_entropy,
    soft_bootstrap,
    symmetric_cross_entropy,
)
from resnet_jax.tasks.registry import make_task

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5), scale=3.0), jnp.float32)
LABELS = jnp.array([0, 4, 2, 2, 1, 3])
PROBABILITIES = jax.nn.softmax(LOGITS, axis=-1)[jnp.arange(6), LABELS]
ROBUST = ("generalized_cross_entropy", "symmetric_cross_entropy", "soft_bootstrap")


def _gradient(loss, **parameters: float) -> jax.Array:
    return jax.grad(lambda z: loss(z, LABELS, **parameters).sum())(LOGITS)


def test_generalized_cross_entropy_goes_from_cross_entropy_to_the_absolute_error() -> None:
    """Zhang & Sabuncu, equation 6: q -> 0 and q = 1, where it is half of sum_k |y_k - p_k|."""
    near = generalized_cross_entropy(LOGITS, LABELS, q=1e-6)
    np.testing.assert_allclose(near, cross_entropy(LOGITS, LABELS), rtol=2e-5)
    rows = jax.nn.one_hot(LABELS, 5)
    absolute = jnp.abs(rows - jax.nn.softmax(LOGITS, axis=-1)).sum(axis=-1)
    np.testing.assert_allclose(generalized_cross_entropy(LOGITS, LABELS, q=1.0), absolute / 2, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("q", [0.2, 0.7, 1.0])
def test_its_gradient_is_that_of_cross_entropy_times_p_to_the_q(q: float) -> None:
    expected = _gradient(cross_entropy) * PROBABILITIES[:, None] ** q
    np.testing.assert_allclose(_gradient(generalized_cross_entropy, q=q), expected, rtol=1e-4, atol=1e-6)


def test_reverse_cross_entropy_of_a_hard_label_is_minus_a_times_the_rest() -> None:
    reverse = symmetric_cross_entropy(LOGITS, LABELS, alpha=0.0, beta=2.0, floor=-6.0)
    np.testing.assert_allclose(reverse, 2.0 * 6.0 * (1.0 - PROBABILITIES), rtol=1e-5, atol=1e-5)
    only = symmetric_cross_entropy(LOGITS, LABELS, alpha=0.5, beta=0.0)
    np.testing.assert_allclose(only, 0.5 * cross_entropy(LOGITS, LABELS), rtol=1e-6)


def test_bootstrapping_of_the_label_alone_is_cross_entropy_and_adds_the_entropy() -> None:
    np.testing.assert_allclose(soft_bootstrap(LOGITS, LABELS, beta=1.0), cross_entropy(LOGITS, LABELS), rtol=1e-6)
    p = jax.nn.softmax(LOGITS, axis=-1)
    entropy = -(p * jnp.log(p)).sum(axis=-1)
    expected = 0.8 * cross_entropy(LOGITS, LABELS) + 0.2 * entropy
    np.testing.assert_allclose(soft_bootstrap(LOGITS, LABELS, beta=0.8), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ROBUST)
def test_a_label_that_the_network_is_sure_is_wrong_gives_finite_numbers(name: str) -> None:
    task = Classification(2, name)
    z, batch = jnp.array([[200.0, -200.0]]), {"label": jnp.array([1])}
    assert np.isfinite(task.loss(z, batch)).all()
    assert np.isfinite(jax.grad(lambda z: task.loss(z, batch).sum())(z)).all()


def test_options_reach_the_loss() -> None:
    facts = TaskFacts(names=("a", "b", "c", "d", "e"))
    for config, expected in (
        (TaskConfig(loss=ROBUST[0], gce_q=0.3), generalized_cross_entropy(LOGITS, LABELS, q=0.3)),
        (
            TaskConfig(loss=ROBUST[1], sce_alpha=6.0, sce_beta=0.2, sce_floor=-5.0),
            symmetric_cross_entropy(LOGITS, LABELS, alpha=6.0, beta=0.2, floor=-5.0),
        ),
        (TaskConfig(loss=ROBUST[2], bootstrap_beta=0.5), soft_bootstrap(LOGITS, LABELS, beta=0.5)),
    ):
        task = make_task(config, facts)
        np.testing.assert_array_equal(task.loss(LOGITS, {"label": LABELS}), expected)
        assert np.allclose(task.probabilities(np.asarray(LOGITS)).sum(axis=1), 1.0)


def test_class_weights_multiply_them() -> None:
    weights = (1.0, 2.0, 0.5, 0.0, 3.0)
    for name in ROBUST:
        plain = Classification(5, name).loss(LOGITS, {"label": LABELS})
        weighted = Classification(5, name, class_weights=weights).loss(LOGITS, {"label": LABELS})
        np.testing.assert_allclose(weighted, plain * np.asarray(weights)[np.asarray(LABELS)], rtol=1e-6)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"gce_q": 0.0}, r"task.gce_q must be in \(0, 1\], got 0.0"),
        ({"sce_alpha": 0.0}, "task.sce_alpha must be positive"),
        ({"sce_floor": 0.0}, "task.sce_floor must be below 0, got 0.0"),
        ({"bootstrap_beta": 1.5}, r"task.bootstrap_beta must be in \(0, 1\]"),
        ({"gce_q": 0.5}, "task.gce_q 0.5 is of task.loss generalized_cross_entropy, not of cross_entropy"),
        ({"loss": ROBUST[0], "sce_beta": 2.0}, "task.sce_beta 2 is of task.loss symmetric_cross_entropy, not of gen"),
        ({"loss": ROBUST[1], "label_smoothing": 0.1}, "label_smoothing goes with cross_entropy and bce"),
        ({"kind": "multilabel", "gce_q": 0.5}, "is not used by task.kind multilabel, but by classification"),
    ],
)
def test_options_that_do_not_go_are_refused(choices: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_task(TaskConfig(**choices), TaskFacts(names=("a", "b")))


def test_a_task_made_in_python_checks_them_too() -> None:
    with pytest.raises(UsageError, match=r"gce_q must be in \(0, 1\]"):
        Classification(3, "generalized_cross_entropy", gce_q=1.5)


def _clean_accuracies(task: Classification, seeds: int = 4) -> np.ndarray:
    """Return the clean test accuracy of logistic regressions on 600 digits, 40 % of them of a wrong label, (seeds,)."""
    records = load_digits().splits["all"]
    pixels, labels = jnp.asarray(records.images.reshape(-1, 64), jnp.float32) / 255.0, np.asarray(records.labels)

    @jax.jit
    @jax.vmap
    def accuracy(train: jax.Array, noisy: jax.Array, test: jax.Array) -> jax.Array:
        def step(w: jax.Array, _: None) -> tuple[jax.Array, None]:
            return w - 2.0 * jax.grad(lambda w: task.loss(pixels[train] @ w, {"label": noisy}).mean())(w), None

        w, _ = jax.lax.scan(step, jnp.zeros((64, 10)), None, length=1000)
        return (jnp.argmax(pixels[test] @ w, axis=-1) == jnp.asarray(labels)[test]).mean()

    trained, flipped, tested = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(labels))
        train = order[:600]
        others = (labels[train] + rng.integers(1, 10, 600)) % 10
        trained.append(train)
        flipped.append(np.where(rng.random(600) < 0.4, others, labels[train]))
        tested.append(order[1200:])
    return np.asarray(accuracy(*(jnp.asarray(np.stack(rows), jnp.int32) for rows in (trained, flipped, tested))))


@functools.cache
def _of_cross_entropy() -> np.ndarray:
    return _clean_accuracies(Classification(10))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "gain"),
    [
        (Classification(10, "generalized_cross_entropy"), 0.10),
        (Classification(10, "symmetric_cross_entropy"), 0.07),
        (Classification(10, "soft_bootstrap", bootstrap_beta=0.6), 0.03),
    ],
    ids=ROBUST,
)
def test_digits_of_which_40_percent_have_a_wrong_label(task: Classification, gain: float) -> None:
    """Every seed gains. Measured: cross-entropy 0.74 to 0.77, the three 0.89 to 0.91, 0.85 to 0.88, 0.80 to 0.84.

    Bootstrapping with the paper's beta of 0.95 gains 0 to 0.01 here: so much of the label is left that it is fitted.
    """
    assert (_clean_accuracies(task) > _of_cross_entropy() + gain).all()
