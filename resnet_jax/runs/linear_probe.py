"""A linear probe: multinomial logistic regression on a frozen network's features of images.

It is the baseline that fine-tuning must beat: it trains no part of the backbone and cannot overfit it (Kornblith et al.
2019, "Do Better ImageNet Models Transfer Better?", arXiv 1805.08974, section 3). The regression is scikit-learn's, by
L-BFGS on standardized features, with the strength of its L2 penalty chosen on examples that it was not fitted on.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from resnet_jax.data.records import Records
from resnet_jax.errors import UsageError
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.paths import HEAD_BIAS, HEAD_KERNEL
from resnet_jax.models.resnet import ResNet
from resnet_jax.runs.build import eval_preprocess, evaluation_feed
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.weights.transfer import transfer

#: Inverse penalty strengths to try, C in scikit-learn; the weakest penalty last.
STRENGTHS = tuple(10.0**power for power in range(-5, 3))
#: The minimum number of validation examples to choose by; below it, folds of the training examples are used.
ENOUGH = 100
FOLDS = 5
ITERATIONS = 1_000
SMALL = 5_000_000
"""Problem size below which linear-algebra threads spend more time waiting than computing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """A network's features of examples.

    Attributes:
        values: float32 (N, C), the classifier's input.
        labels: int (N,).
    """

    values: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe.

    Attributes:
        kernel: float32 (C, classes), for unscaled features.
        bias: float32 (classes,).
        strength: C, the inverse penalty strength.
        chosen_on: ``validation``, ``folds`` (of the training examples) or ``nothing`` if there were too few examples.
        tried: pairs (C, accuracy on the examples it was chosen on).
        converged: whether the fit with the chosen strength converged.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    chosen_on: Literal["validation", "folds", "nothing"]
    tried: tuple[tuple[float, float], ...]
    converged: bool

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Return the class of every row, int (N,)."""
        return np.argmax(values @ self.kernel + self.bias, axis=-1)


def backbone_variables(source: Mapping[str, Any], model: ResNet, shape: Sequence[int], **fit: Any) -> dict[str, Any]:
    """Return variables of ``model`` with the backbone of another network and a classifier of zeros.

    Args:
        source: ``params`` and ``batch_stats`` of the other network.
        model: the target network.
        shape: shape of its inputs, without the batch axis.
        **fit: how the rest is adapted, as in :func:`resnet_jax.weights.transfer.transfer`: ``stem`` and others.

    Raises:
        UsageError: if they do not fit.
    """
    shapes = abstract_variables(model, tuple(shape))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return transfer(source, model, zeros, head="new", **fit)


def classifier_of(variables: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return kernel (C, outputs) and bias (outputs,) of a network's classifier; None without one."""
    params = flatten_dict(dict(variables["params"]), sep="/")
    if HEAD_KERNEL not in params:
        return None
    kernel = np.asarray(params[HEAD_KERNEL], np.float32)
    bias = params.get(HEAD_BIAS)
    return kernel, np.zeros(kernel.shape[-1], np.float32) if bias is None else np.asarray(bias, np.float32)


def features_of(
    config: RunConfig,
    model: ResNet,
    card: DatasetInfo,
    variables: Mapping[str, Any],
    records: Records,
    lost: Any = None,
) -> Features:
    """Compute the features of examples, with batch norm's running averages; every readable example once.

    Args:
        config: configuration of the run that the examples belong to.
        model: the network.
        card: its data, with the normalization.
        variables: variables of the network.
        records: the examples.
        lost: counts unreadable examples, if they are skipped (`RunData.unreadable_of`).
    """
    values, labels = [], []
    placed = jax.device_put(dict(variables))
    for batch in evaluation_feed(config, records, unreadable=lost):
        mask = np.asarray(batch["mask"], bool)
        found = _pooled(model, card.mean, card.std, placed, batch["image"])
        values.append(np.asarray(found)[mask])
        labels.append(np.asarray(batch["label"])[mask])
    return Features(np.concatenate(values), np.concatenate(labels))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pooled(
    model: ResNet, mean: tuple[float, ...], std: tuple[float, ...], variables: dict[str, Any], images: jax.Array
) -> jax.Array:
    card = DatasetInfo((), (), mean, std, {})
    x = eval_preprocess(model, card)(jax.random.key(0), {"image": images})
    found: Any = model.apply(variables, x, train=False, method="features")
    return found["pooled"].astype(jnp.float32)


def fit_probe(train: Features, val: Features | None, classes: int, *, balanced: bool = False) -> Probe:
    """Fit a probe on training features only; validation features only choose the penalty.

    Args:
        train: features to fit on.
        val: features to choose the penalty on; if None, or fewer than :data:`ENOUGH`, it is chosen by folds of
            ``train``.
        classes: number of classes of the data; one without training examples is practically never predicted.
        balanced: whether rare classes have more weight, as with ``task.class_weights balanced``.

    Raises:
        UsageError: if there are examples of only one class.
    """
    present = np.unique(train.labels)
    if len(present) < 2:
        raise UsageError(f"a linear probe tells classes apart, and all {len(train)} training examples are of one")
    mean, deviation = train.values.mean(axis=0), train.values.std(axis=0)
    scale = np.where(deviation > 1e-12, deviation, 1.0)
    x = (train.values - mean) / scale
    fit = functools.partial(_fit, balanced=balanced)
    chosen_on: Literal["validation", "folds", "nothing"]
    tried: list[tuple[float, float, float]] = []
    parts = _folds(train.labels)
    if val is not None and len(val) >= ENOUGH:
        chosen_on, held = "validation", (val.values - mean) / scale
        tried = [(c, *_score(fit(x, train.labels, c)[0], held, val.labels)) for c in STRENGTHS]
    elif parts:
        chosen_on = "folds"
        for c in STRENGTHS:
            scores = [_score(fit(x[a], train.labels[a], c)[0], x[b], train.labels[b]) for a, b in parts]
            tried.append((c, float(np.mean([s[0] for s in scores])), float(np.mean([s[1] for s in scores]))))
    else:
        chosen_on = "nothing"
    strength = max(tried, key=lambda row: (row[1], -row[2]))[0] if tried else 1.0
    model, converged = fit(x, train.labels, strength)
    coefficients, intercept = _multinomial(model)
    kernel = np.zeros((x.shape[1], classes), np.float32)
    bias = np.full(classes, float(intercept.min()) - 20.0, np.float32)
    kernel[:, present] = (coefficients / scale).T
    bias[present] = intercept - (coefficients / scale) @ mean
    return Probe(kernel, bias, strength, chosen_on, tuple(row[:2] for row in tried), converged)


def _fit(x: np.ndarray, labels: np.ndarray, strength: float, *, balanced: bool) -> tuple[Any, bool]:
    """Return scikit-learn's model and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # scikit-learn needs it

    model = LogisticRegression(C=strength, max_iter=ITERATIONS, class_weight="balanced" if balanced else None)
    threads = threadpool_limits(1 if x.size < SMALL else None)
    with threads, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(x, labels)
    return model, not any(issubclass(one.category, ConvergenceWarning) for one in said)


def _score(model: Any, x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return accuracy and mean negative log-likelihood; a class that was not fitted counts as wrong and unlikely."""
    probabilities = model.predict_proba(x)
    column = np.searchsorted(model.classes_, labels)
    known = np.isin(labels, model.classes_)
    own = np.where(known, probabilities[np.arange(len(labels)), np.minimum(column, len(model.classes_) - 1)], 0.0)
    right = known & (model.classes_[np.argmax(probabilities, axis=1)] == labels)
    return float(np.mean(right)), float(-np.mean(np.log(np.maximum(own, 1e-12))))


def _multinomial(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (classes, C) and intercepts (classes,); for two classes scikit-learn keeps the second."""
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        return np.concatenate([0 * coefficients, coefficients]), np.concatenate([0 * intercept, intercept])
    return coefficients, intercept


def _folds(labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return stratified folds of training examples; none if a class has only one example."""
    from sklearn.model_selection import StratifiedKFold

    least = int(np.unique(labels, return_counts=True)[1].min())
    if least < 2:
        return []
    folds = StratifiedKFold(min(FOLDS, least), shuffle=True, random_state=0)
    return list(folds.split(np.zeros(len(labels)), labels))
