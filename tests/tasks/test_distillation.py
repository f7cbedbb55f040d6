"""The loss of distillation against NumPy in float64: value, gradient, limits, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.config import DistillConfig, TaskConfig
from resnet_jax.tasks.distillation import TEACHER, Distillation, distilled
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.losses import soft_target_loss
from resnet_jax.tasks.registry import make_task

B, K = 5, 4
RNG = np.random.default_rng(0)
LOGITS, TAUGHT = RNG.normal(size=(B, K), scale=3.0), RNG.normal(size=(B, K), scale=2.0)
LABELS = np.array([0, 3, 1, 2, 2], np.int32)
LABELLED = {"label": jnp.asarray(LABELS)}


def _log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def _reference(z: np.ndarray, weight: float, temperature: float) -> np.ndarray:
    """Return (1 - w) CE + w T^2 KL(teacher || student), (B,), as the paper writes it."""
    hard = -_log_softmax(z)[np.arange(B), LABELS]
    log_p, log_q = _log_softmax(TAUGHT / temperature), _log_softmax(z / temperature)
    return (1 - weight) * hard + weight * temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize(("weight", "temperature"), [(0.9, 4.0), (0.3, 1.0), (1.0, 20.0)])
def test_value_and_gradient_are_the_closed_form_in_float64(weight: float, temperature: float) -> None:
    task = Distillation(K, temperature=temperature, weight=weight)
    with jax.enable_x64(True):
        batch = {"label": jnp.asarray(LABELS), TEACHER: jnp.asarray(TAUGHT)}

        def total(z: jax.Array) -> jax.Array:
            return task.loss(z, batch).sum()

        losses, gradient = np.asarray(task.loss(jnp.asarray(LOGITS), batch)), np.asarray(jax.grad(total)(LOGITS))
    assert losses.dtype == np.float64
    np.testing.assert_allclose(losses, _reference(LOGITS, weight, temperature), rtol=1e-12)
    h = 1e-5
    moved = [
        (_reference(LOGITS + h * e, weight, temperature) - _reference(LOGITS - h * e, weight, temperature)) / (2 * h)
        for e in np.eye(K)
    ]
    np.testing.assert_allclose(gradient, np.stack(moved, axis=-1), rtol=1e-6, atol=1e-6)


def test_at_a_high_temperature_it_matches_centred_logits() -> None:
    """Equation 4 of the paper: with the factor T^2 the gradient tends to (z - v) / K, both centred."""
    with jax.enable_x64(True):
        gradient = jax.grad(lambda z: soft_target_loss(z, jnp.asarray(TAUGHT), temperature=1e5).sum())(LOGITS)
    z, v = (x - x.mean(-1, keepdims=True) for x in (LOGITS, TAUGHT))
    np.testing.assert_allclose(gradient, (z - v) / K, atol=1e-4)


def test_no_gradient_reaches_the_teacher_and_half_precision_is_widened() -> None:
    taught = jnp.asarray(TAUGHT, jnp.float32)
    assert not jax.grad(lambda v: soft_target_loss(jnp.asarray(LOGITS, jnp.float32), v).sum())(taught).any()
    half = soft_target_loss(jnp.asarray(LOGITS, jnp.bfloat16), taught)
    assert half.dtype == jnp.float32


def test_the_other_options_of_the_task_are_of_the_hard_term() -> None:
    weights = (1.0, 2.0, 0.5, 3.0)
    plain = Classification(K, label_smoothing=0.1, class_weights=weights)
    task = distilled(plain, DistillConfig("somewhere", 2.0, 0.25))
    z, batch = jnp.asarray(LOGITS, jnp.float32), {**LABELLED, TEACHER: jnp.asarray(TAUGHT, jnp.float32)}
    soft = soft_target_loss(z, batch[TEACHER], temperature=2.0)
    np.testing.assert_allclose(task.loss(z, batch), 0.75 * plain.loss(z, batch) + 0.25 * soft, rtol=1e-6)
    assert task.kind == "classification"


def test_a_batch_without_a_teacher_has_no_loss() -> None:
    with pytest.raises(UsageError, match=r"teacher's logits \(5, 4\) in the batch: teacher is missing"):
        Distillation(K).loss(jnp.asarray(LOGITS), LABELLED)
    with pytest.raises(UsageError, match=r"has shape \(5, 3\)"):
        Distillation(K).loss(jnp.asarray(LOGITS), {**LABELLED, TEACHER: jnp.asarray(TAUGHT[:, :3])})


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"temperature": 0.0}, "task.distill.temperature must be positive, got 0.0"),
        ({"teacher": "x", "weight": 0.0}, r"task.distill.weight must be in \(0, 1\], got 0.0"),
        ({"weight": 0.5}, "task.distill.weight 0.5 needs task.distill.teacher"),
    ],
)
def test_options_that_cannot_be_are_refused(choices: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DistillConfig(**choices)


@pytest.mark.parametrize(
    ("kind", "labels", "loss", "message"),
    [
        ("regression", "value", None, "task.distill.teacher runs/t is not used by task.kind regression, but by class"),
        ("multilabel", "multi-label", None, "is not used by task.kind multilabel"),
        ("binary", "class", None, "is not used by task.kind binary"),
        ("classification", "class", "mse", "goes with losses of the softmax, such as cross_entropy, and not with"),
        ("classification", "class", "bce", "and not with task.loss bce"),
    ],
)
def test_tasks_and_losses_without_a_softmax_are_refused(kind: str, labels, loss: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_task(TaskConfig(kind, loss, distill=DistillConfig("runs/t")), TaskFacts(labels, ("a", "b")))
