"""Losses per example, in float32 or wider, for hard labels and for soft targets.

A loss takes logits (B, K) of any float dtype and targets that are either class indices (B,) or dense rows (B, K) (soft
labels from mixup, multi-hot labels, regression values). It returns one number per example (B,), so that the caller
decides how to mask and average. Penalties on the weights belong to the optimizer (`optimizers.py`).

A label **out of range** (negative, or >= K) has a loss and a gradient of NaN. So do invalid soft labels: below 0; for
`cross_entropy`, all 0 (the result of `jax.nn.one_hot` for a label out of range); for `bce`, above 1. On the device
nothing can be raised, but the train step rejects an update whose loss is not finite, and the loop stops there. There is
no label that means "ignore this one" (PyTorch's -100): the eval step has a mask. The data floor checks labels on the
host, where a message can name the bad one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from resnet_jax.errors import UsageError, unknown
from resnet_jax.fields import is_known, is_on
from resnet_jax.ops import at_least_float32, in_range

#: How far a soft label from mixing may exceed 1.
ROUNDING = 1e-4

Number = float | Float[Array, ""]
"""A parameter of a loss: a Python number or a traced scalar."""

Loss = Callable[[Any, Any], Array]
"""(logits (B, K), targets (B,) int or (B, K)) -> (B,), float32 or wider."""


def dense_targets(logits: Shaped[Array, "*logits"], targets: Shaped[Array, "*target"]) -> Float[Array, "B K"]:
    """Return targets as rows (B, K): class indices (B,) become one-hot, dense rows are cast.

    Their dtype is that of the logits, but at least float32.

    Raises:
        UsageError: the shapes are incompatible, or targets of shape (B,) are not integers. Raised while tracing.

    >>> dense_targets(jnp.zeros((2, 3)), jnp.array([2, 0])).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if logits.ndim != 2:
        raise UsageError(f"a loss takes logits of shape (batch, classes), got {logits.shape}")
    batch, classes = logits.shape
    if targets.shape == (batch, classes):
        return targets.astype(at_least_float32(logits.dtype))
    if targets.shape != (batch,):
        raise UsageError(
            f"targets of shape {targets.shape} do not go with logits {logits.shape}: "
            f"give class indices {(batch,)} or dense rows {(batch, classes)}"
        )
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise UsageError(
            f"targets of shape {targets.shape} are class indices and must be integers, got {targets.dtype}; "
            f"for regression on one value give shape {(batch, 1)}"
        )
    if targets.dtype.itemsize < 4:  # JAX counts classes in the labels' dtype: in uint8, class 300 would equal class 44
        targets = targets.astype(jnp.int32)
    return jax.nn.one_hot(targets, classes, dtype=at_least_float32(logits.dtype))


def _or_nan(losses: Array, targets: Array, classes: int, most: float | None) -> Array:
    """Return the losses, with NaN where the label is not a class or the soft labels are invalid.

    A final factor of 1 changes no bit of valid losses, nor of their gradients.

    Args:
        losses: (B,).
        targets: class indices (B,), or dense rows (B, K).
        classes: K.
        most: largest valid soft label; None: no limit, but not all of them may be 0.
    """
    if targets.ndim == 1:
        good = in_range(targets, classes)
    else:
        good = (targets >= 0).all(axis=-1)
        good &= (targets != 0).any(axis=-1) if most is None else (targets <= most).all(axis=-1)
    return losses * jnp.where(good, 1.0, jnp.nan).astype(losses.dtype)


def _wide(outputs: Array) -> Array:
    return outputs.astype(at_least_float32(outputs.dtype))


def cross_entropy(
    logits: Float[Array, "*logits"], targets: Shaped[Array, "*target"], *, label_smoothing: Number = 0.0
) -> Float[Array, " B"]:
    """Softmax cross-entropy, -sum_k y_k log softmax(logits)_k, in nats.

    Args:
        logits: (B, K), any float dtype; computed in float32 or wider.
        targets: class indices (B,), or rows (B, K) that sum to one.
        label_smoothing: s in [0, 1): the target becomes (1 - s) y + s / K (Szegedy et al., 2016, section 7).
            Dense targets are smoothed too; smoothing is linear, so it commutes with mixup.

    Returns:
        (B,), float32 or wider.

    >>> float(cross_entropy(jnp.zeros((1, 4)), jnp.array([3]))[0]) == float(jnp.log(4.0))
    True
    """
    import optax

    rows = optax.smooth_labels(dense_targets(logits, targets), label_smoothing)
    losses = optax.softmax_cross_entropy(_wide(logits), rows)
    return _or_nan(losses, targets, logits.shape[1], None)


def bce(
    logits: Float[Array, "*logits"], targets: Shaped[Array, "*target"], *, label_smoothing: Number = 0.0
) -> Float[Array, " B"]:
    """One-versus-all sigmoid cross-entropy, the **mean** over classes, in nats.

    This is the loss of "ResNet strikes back" (Wightman et al., 2021) and of "Are we done with ImageNet?" (Beyer et al.,
    2020), reduced as timm's `BinaryCrossEntropy` does by default. The mean is K times smaller than the sum, so learning
    rates and weight decays of recipes that sum over classes do not carry over.

    Args:
        logits: (B, K), any float dtype; computed in float32 or wider.
        targets: class indices (B,), or rows (B, K) in [0, 1], which need not sum to one.
        label_smoothing: s in [0, 1): the target becomes (1 - s) y + s / K.

    Returns:
        (B,), float32 or wider.
    """
    import optax

    rows = optax.smooth_labels(dense_targets(logits, targets), label_smoothing)
    losses = optax.sigmoid_binary_cross_entropy(_wide(logits), rows).mean(axis=-1)
    return _or_nan(losses, targets, logits.shape[1], 1.0 + ROUNDING)


def binary_cross_entropy(
    logits: Float[Array, "B K"],
    targets: Shaped[Array, "B K"],
    *,
    label_smoothing: Number = 0.0,
    positive_weights: Float[Array, " _"] | None = None,
) -> Float[Array, "B K"]:
    """Sigmoid cross-entropy of every label, -w y log p - (1 - y) log(1 - p), in nats; NaN for targets outside [0, 1].

    Args:
        logits: any float dtype; computed in float32 or wider.
        targets: probabilities of yes; 0 or 1 for hard labels.
        label_smoothing: s in [0, 1): the target becomes (1 - s) y + s / 2.
        positive_weights: w, as PyTorch's ``pos_weight``; one, or one per label; None for 1.
    """
    z, y = _wide(logits), targets.astype(at_least_float32(logits.dtype))
    good = (y >= 0) & (y <= 1.0 + ROUNDING)
    smooth = (1.0 - label_smoothing) * y + label_smoothing / 2
    yes = smooth * jax.nn.log_sigmoid(z)
    if positive_weights is not None:
        yes *= positive_weights.astype(z.dtype)[None]
    losses = -yes - (1.0 - smooth) * jax.nn.log_sigmoid(-z)
    return losses * jnp.where(good, 1.0, jnp.nan).astype(losses.dtype)


def is_yes(targets: Shaped[Array, "*target"]) -> Bool[Array, "*target"]:
    """Return whether targets, 0 or 1 or probabilities of any dtype, mean yes: above 1/2."""
    return targets.astype(jnp.float32) > 0.5


def mse(outputs: Float[Array, "*outputs"], targets: Shaped[Array, "*target"]) -> Float[Array, " B"]:
    """Squared error, the mean over the K outputs (without a factor 1/2), as PyTorch's `MSELoss`.

    Args:
        outputs: (B, K), any float dtype; computed in float32 or wider.
        targets: values (B, K) for regression, or class indices (B,), which become one-hot rows (Hui & Belkin,
            2021, without their rescaling).

    Returns:
        (B,), float32 or wider.

    >>> mse(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])).tolist()
    [2.5]
    """
    import optax

    losses = optax.squared_error(_wide(outputs), dense_targets(outputs, targets)).mean(axis=-1)
    return losses if targets.ndim > 1 else _or_nan(losses, targets, outputs.shape[1], None)


def generalized_cross_entropy(
    logits: Float[Array, "*logits"], targets: Shaped[Array, "*target"], *, q: Number = 0.7
) -> Float[Array, " B"]:
    """Generalized cross-entropy for noisy labels, sum_k y_k (1 - p_k^q) / q, with p = softmax(logits).

    Zhang & Sabuncu, 2018 (arXiv 1805.07836, equation 6), without their truncation. The gradient is that of
    cross-entropy times p_y^q, so examples whose label the network does not believe count less. The loss becomes
    cross-entropy as q -> 0; at q = 1 it is 1 - p_y, half the mean absolute error.

    Args:
        logits: (B, K), any float dtype; computed in float32 or wider.
        targets: class indices (B,), or rows (B, K) that sum to one; the loss is linear in them.
        q: in (0, 1]; the paper's 0.7.

    Returns:
        (B,), float32 or wider.

    >>> generalized_cross_entropy(jnp.zeros((1, 4)), jnp.array([3]), q=1.0).tolist()
    [0.75]
    """
    log_p = jax.nn.log_softmax(_wide(logits), axis=-1)
    losses = -(dense_targets(logits, targets) * jnp.expm1(q * log_p)).sum(axis=-1) / q
    return _or_nan(losses, targets, logits.shape[1], None)


def symmetric_cross_entropy(
    logits: Float[Array, "*logits"],
    targets: Shaped[Array, "*target"],
    *,
    alpha: Number = 0.1,
    beta: Number = 1.0,
    floor: float = -4.0,
) -> Float[Array, " B"]:
    """Symmetric cross-entropy for noisy labels, -alpha sum_k y_k log p_k - beta sum_k p_k log y_k.

    Wang et al., 2019 (arXiv 1908.06112, equation 6). The second term, the reverse cross-entropy, uses ``floor``, the
    paper's A, for log 0. With a hard label it is -A (1 - p_y), which is robust to label noise.

    Args:
        logits: (B, K), any float dtype; computed in float32 or wider.
        targets: class indices (B,), or rows (B, K) that sum to one, whose logarithm is ``floor`` or more.
        alpha: weight of cross-entropy.
        beta: weight of reverse cross-entropy.
        floor: A < 0.

    Returns:
        (B,), float32 or wider.
    """
    log_p, rows = jax.nn.log_softmax(_wide(logits), axis=-1), dense_targets(logits, targets)
    log_y = jnp.log(jnp.maximum(rows, math.exp(floor)))
    losses = -alpha * (rows * log_p).sum(axis=-1) - beta * (jnp.exp(log_p) * log_y).sum(axis=-1)
    return _or_nan(losses, targets, logits.shape[1], None)


def soft_bootstrap(
    logits: Float[Array, "*logits"], targets: Shaped[Array, "*target"], *, beta: Number = 0.95
) -> Float[Array, " B"]:
    """Soft bootstrapping for noisy labels, -sum_k (beta y_k + (1 - beta) p_k) log p_k, with p = softmax(logits).

    Reed et al., 2015 (arXiv 1412.6596, equation 6): the target leans towards the network's prediction. The gradient
    goes through both p, so this is beta times cross-entropy plus (1 - beta) times the entropy of the prediction.

    Args:
        logits: (B, K), any float dtype; computed in float32 or wider.
        targets: class indices (B,), or rows (B, K) that sum to one; the loss is linear in them.
        beta: share of the label, in (0, 1]; the paper's 0.95.

    Returns:
        (B,), float32 or wider.
    """
    log_p = jax.nn.log_softmax(_wide(logits), axis=-1)
    losses = -((beta * dense_targets(logits, targets) + (1.0 - beta) * jnp.exp(log_p)) * log_p).sum(axis=-1)
    return _or_nan(losses, targets, logits.shape[1], None)


def soft_target_loss(
    logits: Float[Array, "B K"], teacher: Float[Array, "B K"], *, temperature: float = 4.0
) -> Float[Array, " B"]:
    """Distillation loss, T^2 KL(p || q) with p = softmax(teacher / T) and q = softmax(logits / T), in nats.

    Hinton, Vinyals & Dean, 2015 (arXiv 1503.02531, section 2). The factor T^2 keeps the gradient's size when T changes:
    d/dlogits = T (q - p), which for large T and centered logits is (logits - teacher) / K (their equation 4).

    Args:
        logits: logits of the student, any float dtype; computed in float32 or wider.
        teacher: logits of the teacher, which receives no gradient.
        temperature: T > 0.

    Returns:
        (B,), float32 or wider; 0 where both agree.

    >>> soft_target_loss(jnp.array([[1.0, 2.0]]), jnp.array([[11.0, 12.0]])).tolist()
    [0.0]
    """
    wide = _wide(logits)
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(teacher).astype(wide.dtype) / temperature, axis=-1)
    log_q = jax.nn.log_softmax(wide / temperature, axis=-1)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


LOSSES: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "cross_entropy": cross_entropy,
        "bce": bce,
        "mse": mse,
        "generalized_cross_entropy": generalized_cross_entropy,
        "symmetric_cross_entropy": symmetric_cross_entropy,
        "soft_bootstrap": soft_bootstrap,
    }
)
"""The losses by name. Those in :data:`SMOOTHED` take the keyword ``label_smoothing``."""

SMOOTHED = ("cross_entropy", "bce")

#: Parameters of losses: loss -> option of the task -> keyword of the function.
LOSS_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "generalized_cross_entropy": {"gce_q": "q"},
        "symmetric_cross_entropy": {"sce_alpha": "alpha", "sce_beta": "beta", "sce_floor": "floor"},
        "soft_bootstrap": {"bootstrap_beta": "beta"},
    }
)


def get_loss(name: str, label_smoothing: Number = 0.0, **parameters: Number) -> Loss:
    """Look up a loss by name and fix its label smoothing and parameters.

    Args:
        name: a key of :data:`LOSSES`.
        label_smoothing: for losses in :data:`SMOOTHED`; a number or a traced scalar. Losses for noisy labels reject it:
            each has its own way of trusting a label less, which smoothing would change (above all the log 0 of
            symmetric cross-entropy).
        parameters: keywords of the loss.

    Raises:
        UsageError: there is no such loss, smoothing is outside [0, 1), or the loss has no smoothing.

    >>> get_loss("bce", label_smoothing=0.1)(jnp.zeros((2, 5)), jnp.array([1, 4])).shape
    (2,)
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    if is_known(label_smoothing) and not 0.0 <= label_smoothing < 1.0:
        raise UsageError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if is_on(label_smoothing):
        if name == "mse":
            raise UsageError("label_smoothing goes with cross_entropy and bce; mse has no classes to smooth over")
        if name not in SMOOTHED:
            raise UsageError(f"label_smoothing goes with cross_entropy and bce; {name} has its own way with labels")
        parameters["label_smoothing"] = label_smoothing
    return functools.partial(LOSSES[name], **parameters) if parameters else LOSSES[name]
