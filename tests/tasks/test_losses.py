"""Losses against NumPy in float64: values, gradients, soft targets, smoothing, odd dtypes, refusals.

Those for noisy labels have their own file beside this one, test_noisy_labels.py.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.tasks.losses import LOSSES, SMOOTHED, bce, cross_entropy, dense_targets, get_loss, mse

B, K = 6, 5


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _symmetric(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    p, log_y = _softmax(z), np.log(np.maximum(y, np.exp(-4.0)))
    return -0.1 * (y * np.log(p)).sum(-1) - (p * log_y).sum(-1)


def _numerical(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the gradient of a reference by central differences, float64."""

    def gradient(z: np.ndarray, y: np.ndarray, h: float = 1e-6) -> np.ndarray:
        moved = [(REFERENCE[name](z + h * e, y) - REFERENCE[name](z - h * e, y)) / (2 * h) for e in np.eye(K)]
        return np.stack(moved, axis=-1)

    return gradient


REFERENCE = {  # from the textbook, float64
    "cross_entropy": lambda z, y: -(y * np.log(_softmax(z))).sum(-1),
    "bce": lambda z, y: -(y * np.log(_sigmoid(z)) + (1 - y) * np.log(1 - _sigmoid(z))).mean(-1),
    "mse": lambda z, y: ((z - y) ** 2).mean(-1),
    "generalized_cross_entropy": lambda z, y: (y * (1 - _softmax(z) ** 0.7) / 0.7).sum(-1),
    "symmetric_cross_entropy": lambda z, y: _symmetric(z, y),
    "soft_bootstrap": lambda z, y: -((0.95 * y + 0.05 * _softmax(z)) * np.log(_softmax(z))).sum(-1),
}
GRADIENT = {  # of the sum over the batch
    "cross_entropy": lambda z, y: _softmax(z) - y,
    "bce": lambda z, y: (_sigmoid(z) - y) / K,
    "mse": lambda z, y: 2 * (z - y) / K,
}
GRADIENT |= {name: _numerical(name) for name in REFERENCE if name not in GRADIENT}


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(B, K), scale=3.0)


@pytest.fixture
def labels() -> np.ndarray:
    return np.array([0, 4, 2, 2, 1, 3], np.int32)


def _smooth(rows: np.ndarray, s: float) -> np.ndarray:
    return (1 - s) * rows + s / K


def test_every_loss_has_a_reference() -> None:
    assert set(LOSSES) == set(REFERENCE)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient(name: str, dense: bool, smoothing: float, logits: np.ndarray, labels: np.ndarray) -> None:
    if name not in SMOOTHED and smoothing:
        return  # refused, see below
    rows = np.random.default_rng(1).dirichlet(np.ones(K), B) if dense else np.eye(K)[labels]
    targets = jnp.asarray(rows, jnp.float32) if dense else jnp.asarray(labels)
    loss = get_loss(name, smoothing)
    z = jnp.asarray(logits, jnp.float32)
    value = loss(z, targets)
    assert value.shape == (B,)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, REFERENCE[name](logits, _smooth(rows, smoothing)), rtol=2e-6, atol=1e-6)
    gradient = jax.grad(lambda z: loss(z, targets).sum())(z)
    np.testing.assert_allclose(gradient, GRADIENT[name](logits, _smooth(rows, smoothing)), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_computed_in_float32(name: str, logits: np.ndarray, labels: np.ndarray) -> None:
    half = jnp.asarray(logits, jnp.bfloat16)
    value = get_loss(name)(half, jnp.asarray(labels))
    assert value.dtype == jnp.float32
    exact = REFERENCE[name](np.asarray(half, np.float64), np.eye(K)[labels])
    np.testing.assert_allclose(value, exact, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_small_unsigned_labels(name: str, logits: np.ndarray, labels: np.ndarray) -> None:
    z = jnp.asarray(logits, jnp.float32)
    same = get_loss(name)(z, jnp.asarray(labels.astype(np.uint8)))
    np.testing.assert_array_equal(same, get_loss(name)(z, jnp.asarray(labels)))


@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_large_logits_stay_finite(name: str) -> None:
    """The right class at +1000: a loss near 0; the wrong one: near 1000 (bce: the mean of two such terms)."""
    z, labels = jnp.array([[1000.0, -1000.0], [-1000.0, 1000.0]]), jnp.array([0, 0])
    expected = [0.0, 2000.0] if name == "cross_entropy" else [0.0, 1000.0]
    np.testing.assert_allclose(get_loss(name)(z, labels), expected)


@pytest.mark.parametrize("label", [-1, -100, K, 255])
@pytest.mark.parametrize("name", LOSSES)
def test_a_label_out_of_range_has_a_loss_of_nan_and_the_others_keep_theirs(
    name: str, label: int, logits: np.ndarray, labels: np.ndarray
) -> None:
    """It was -0.0, with no gradient: the example was ignored in silence."""
    z, bad = jnp.asarray(logits, jnp.float32), labels.copy()
    bad[2] = label
    good = np.arange(B) != 2
    for smoothing in (0.0, 0.1) if name in SMOOTHED else (0.0,):
        loss = get_loss(name, smoothing)
        losses = loss(z, jnp.asarray(bad))
        assert np.isnan(losses[2])
        np.testing.assert_array_equal(losses[good], loss(z, jnp.asarray(labels))[good])
        gradient = jax.grad(lambda z, loss=loss: loss(z, jnp.asarray(bad)).sum())(z)
        assert np.isnan(gradient[2]).all()
        assert np.isfinite(gradient[good]).all()


@pytest.mark.parametrize(
    ("name", "row", "good"),
    [
        ("cross_entropy", [0.0, 0.0, 0.0], False),
        ("cross_entropy", [1.5, -0.5, 0.0], False),
        ("cross_entropy", [float("nan"), 0.5, 0.5], False),
        ("cross_entropy", [0.25, 0.75, 0.0], True),
        ("generalized_cross_entropy", [0.0, 0.0, 0.0], False),
        ("symmetric_cross_entropy", [1.5, -0.5, 0.0], False),
        ("symmetric_cross_entropy", [0.25, 0.75, 0.0], True),
        ("soft_bootstrap", [float("nan"), 0.5, 0.5], False),
        ("bce", [0.0, 0.0, 0.0], True),
        ("bce", [1.0, 0.0, 1.00001], True),
        ("bce", [2.0, 0.0, 0.0], False),
        ("bce", [-0.1, 0.0, 0.0], False),
        ("mse", [-7.0, 0.0, 9.0], True),
    ],
)
def test_soft_labels_that_cannot_be_any_have_a_loss_of_nan(name: str, row: list[float], good: bool) -> None:
    loss = get_loss(name)(jnp.array([[0.1, 0.2, 0.3]]), jnp.array([row]))
    assert bool(np.isfinite(loss[0])) == good


def test_more_classes_than_the_labels_dtype_counts() -> None:
    """In uint8, 300 is 44."""
    z = jnp.zeros((1, 400)).at[0, 44].set(5.0)
    for label in (44, 200):
        np.testing.assert_array_equal(
            cross_entropy(z, jnp.array([label], jnp.uint8)), cross_entropy(z, jnp.array([label], jnp.int32))
        )


def test_smoothing_commutes_with_mixup(logits: np.ndarray, labels: np.ndarray) -> None:
    """Cross-entropy is linear in the target: mixing targets equals mixing losses, also with smoothing."""
    z, y = jnp.asarray(logits, jnp.float32), jnp.asarray(labels)
    rows = dense_targets(z, y)
    mixed = 0.3 * rows + 0.7 * rows[::-1]
    for loss in (cross_entropy, bce):
        parts = 0.3 * loss(z, y, label_smoothing=0.1) + 0.7 * loss(z, y[::-1], label_smoothing=0.1)
        np.testing.assert_allclose(loss(z, mixed, label_smoothing=0.1), parts, rtol=2e-6)


def test_mse_regresses_on_one_value() -> None:
    np.testing.assert_allclose(mse(jnp.array([[2.0], [0.0]]), jnp.array([[-1.0], [0.5]])), [9.0, 0.25])


@pytest.mark.parametrize(
    ("logits_shape", "targets", "why"),
    [
        ((2, 3), np.zeros((2, 4), np.float32), r"\(2, 4\) do not go with logits \(2, 3\)"),
        ((2, 3), np.zeros((3,), np.int32), r"give class indices \(2,\) or dense rows \(2, 3\)"),
        ((2, 3), np.zeros((2, 1), np.int32), r"\(2, 1\) do not go with"),
        ((2, 3), np.zeros((2,), np.float32), r"must be integers, got float32; .* give shape \(2, 1\)"),
        ((2, 3, 4), np.zeros((2,), np.int32), r"shape \(batch, classes\), got \(2, 3, 4\)"),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_do_not_fit_are_refused(name: str, logits_shape: tuple, targets: np.ndarray, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        jax.eval_shape(get_loss(name), jnp.zeros(logits_shape), jnp.asarray(targets))


def test_get_loss_refuses() -> None:
    with pytest.raises(UsageError, match="unknown loss 'cross_entrpy'; did you mean 'cross_entropy'"):
        get_loss("cross_entrpy")
    for s in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match=r"label_smoothing must be in \[0, 1\)"):
            get_loss("bce", s)
    with pytest.raises(UsageError, match="mse has no classes to smooth"):
        get_loss("mse", 0.1)
    for name in ("generalized_cross_entropy", "symmetric_cross_entropy", "soft_bootstrap"):
        with pytest.raises(UsageError, match=f"label_smoothing goes with cross_entropy and bce; {name} has its own"):
            get_loss(name, 0.1)
