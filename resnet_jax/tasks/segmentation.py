"""Segmentation: a class for every pixel. Cross-entropy with class weights, Dice, and mean intersection over union."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.fields import NotNegative, check_value, field_hints
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.confusion import Confusion
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.registry import class_weights_of, register_task, require_kind, require_outputs
from resnet_jax.tasks.scores import mean_known
from resnet_jax.tasks.task import Answers, Batch, TaskBase

#: The label of a pixel without a class, which does not count.
VOID = 255
#: The field of examples that contains the classes.
FIELD = "segmentation"


@dataclasses.dataclass(frozen=True)
class Segmentation(TaskBase):
    """Every pixel has one class. Labels are ``segmentation``, uint8 (N, *sides), with 255 for pixels without a class
    (void).

    Outputs are (N, *sides, K), at the labels' size or another. The **loss** is computed at the size of the outputs,
    with the nearest pixel of the labels: for every example the mean over labeled pixels of w_y times the cross-entropy,
    plus ``dice_weight`` times the Dice loss; 0 for an example without labeled pixels. For the **metrics**, outputs are
    interpolated to the labels' own size. They cover all pixels of a data set together: ``miou`` (the headline; right /
    (true + predicted - right), averaged over the classes that occur), ``pixel_accuracy`` and ``mean_class_accuracy``.

    Attributes:
        num_outputs: number of classes, K.
        class_weights: factors w on the cross-entropy of a pixel, by its class; () for 1.
        dice_weight: factor on the Dice loss, which is 1 minus the mean over the classes of an example of 2 sum(p y) /
            (sum(p) + sum(y)), with sums over its labeled pixels of probabilities p and labels y (Milletari et al. 2016,
            arXiv 1606.04797, without their squares).
        names: names of the classes, for notes.

    Raises:
        UsageError: incompatible values.

    >>> task = Segmentation(2)
    >>> outputs, labels = jnp.zeros((1, 2, 2, 2)), jnp.array([[[0, 0], [1, 255]]], jnp.uint8)
    >>> task.eval_sums(outputs, {"segmentation": labels})["confusion"].tolist()
    [[[2, 0], [1, 0]]]
    """

    kind: ClassVar[str] = "segmentation"
    headline: ClassVar[str] = "miou"
    mode: ClassVar[Literal["max", "min"]] = "max"
    heads: ClassVar[tuple[str, ...]] = ("fpn", "aspp", "fcn")
    draws_examples: ClassVar[bool] = True
    #: Outputs are located at pixels, so those of a flipped or shifted image have to be moved back.
    of_pixels: ClassVar[bool] = True
    answers: ClassVar[Answers] = "probabilities"

    class_weights: tuple[float, ...] = ()
    dice_weight: NotNegative = 0.0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_value("dice_weight", self.dice_weight, field_hints(type(self))["dice_weight"])
        if self.class_weights and len(self.class_weights) != self.num_outputs:
            raise UsageError(f"{len(self.class_weights)} class weights do not go with {self.num_outputs} classes")
        if any(not 0.0 <= weight < float("inf") for weight in self.class_weights):
            raise UsageError(f"class weights must be finite and not negative, got {self.class_weights}")

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Reject pixels outside the classes; see :func:`require_pixel_classes`."""
        require_pixel_classes(batch, self.num_outputs)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the loss of every example, (N,), at the size of the outputs."""
        labels = _nearest(batch[FIELD], outputs.shape[1:-1]).reshape(outputs.shape[0], -1)
        logits = outputs.reshape(*labels.shape, outputs.shape[-1])
        known, classes = labels != VOID, outputs.shape[-1]
        # on the device, where nothing can be raised, an invalid label has a loss of NaN
        rows = jax.nn.one_hot(labels.astype(jnp.int32), classes, dtype=logits.dtype)
        log_p = jax.nn.log_softmax(logits, axis=-1)
        each = -(log_p * self._weighted(rows)).sum(axis=-1)
        wrong = known & (labels >= classes)
        each = jnp.where(known, each, 0.0) + jnp.where(wrong, jnp.nan, 0.0)
        losses = each.sum(axis=1) / jnp.maximum(known.sum(axis=1, dtype=each.dtype), 1)
        return losses if self.dice_weight == 0 else losses + self.dice_weight * _dice(log_p, rows, known)

    def _weighted(self, rows: jax.Array) -> jax.Array:
        if not self.class_weights:
            return rows
        return rows * jnp.asarray(self.class_weights, rows.dtype)[None, None]

    def train_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return the numbers of labeled and of correct pixels of every example, at the size of the outputs, (N,)."""
        labels = _nearest(batch[FIELD], outputs.shape[1:-1])
        known, axes = labels != VOID, tuple(range(1, labels.ndim))
        right = known & (_class_of(outputs) == labels.astype(jnp.int32))
        return {"right_pixels": right.sum(axis=axes), "pixels": known.sum(axis=axes)}

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return the share of labeled pixels that are correct."""
        pixels = sums["pixels"]
        return {"pixel_accuracy": sums["right_pixels"] / pixels if pixels else math.nan}

    def eval_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return the ``confusion`` of every example, int32 (N, K, K): pixels of class i that were predicted as j."""
        labels = batch[FIELD]
        found = _class_of(ops.resize_bilinear(outputs, labels.shape[1:]))
        return {"confusion": pixel_confusion(labels, found, outputs.shape[-1])}

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return mean IoU, pixel accuracy and mean class accuracy; NaN if no pixel has a class."""
        details, matrix = self.eval_details(sums, rows, count), np.asarray(sums["confusion"])
        total = matrix.sum()
        return {
            "miou": mean_known(details["iou"]),
            "pixel_accuracy": float(np.trace(matrix) / total) if total else math.nan,
            "mean_class_accuracy": mean_known(details["class_accuracy"]),
        }

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return ``iou`` and ``class_accuracy`` of every class, float64 (K,), NaN for one without pixels.

        Also returns the ``confusion`` of pixels.
        """
        matrix = np.asarray(sums["confusion"], np.float64)
        iou, accuracy = class_scores(matrix)
        return {"iou": iou, "class_accuracy": accuracy, "confusion": Confusion.from_dense(matrix.astype(np.int64))}

    def eval_notes(self, details: Mapping[str, Any]) -> tuple[str, ...]:
        """Name the classes without pixels, which are not part of the means."""
        missing = np.flatnonzero(np.isnan(details["iou"])).tolist()
        if not missing:
            return ()
        named = ", ".join(self.names[k] if k < len(self.names) else str(k) for k in missing[:6])
        more = ", ..." if len(missing) > 6 else ""
        whole = len(details["iou"])
        return (f"{len(missing)} of {whole} classes have no pixel here and are not in the means: {named}{more}",)

    def mean_outputs(self, outputs: jax.Array) -> jax.Array:
        """Return outputs (views, N, ...) whose probabilities are the mean over the views."""
        return jax.nn.logsumexp(jax.nn.log_softmax(outputs, axis=-1), axis=0) - math.log(outputs.shape[0])

    def predict(self, outputs: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
        """Return the classes of the pixels of each example, most frequent first, with their shares."""
        answers = []
        for found in self.predicted_fields(outputs)[FIELD]:
            shares = np.bincount(found.ravel(), minlength=outputs.shape[-1]) / found.size
            order = np.argsort(-shares, kind="stable")[:top]
            answers.append([(int(k), float(shares[k])) for k in order if shares[k] > 0])
        return answers

    def predicted_fields(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the most likely class of every pixel, uint8 (N, *sides)."""
        return {FIELD: np.argmax(outputs, axis=-1).astype(np.uint8)}


def pixel_confusion(labels: jax.Array, found: jax.Array, classes: int) -> jax.Array:
    """Return for every example how many pixels of class i were predicted as j, int32 (N, classes, classes).

    Pixels without a class (labels of ``classes`` and more, including 255) do not count. All numbers are integers.

    Args:
        labels: (N, *sides), any integers.
        found: predicted classes, (N, *sides).
        classes: K.
    """
    true = labels.reshape(labels.shape[0], -1).astype(jnp.int32)
    pairs = jnp.where(true < classes, true * classes + found.reshape(true.shape), classes * classes)
    counts = jax.vmap(lambda row: jnp.zeros(classes * classes + 1, jnp.int32).at[row].add(1))(pairs)
    return counts[:, :-1].reshape(-1, classes, classes)


def class_scores(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intersection over union and accuracy (recall) of every class, float64 (K,), NaN for one that never occurs.

    Args:
        matrix: (K, K), row i, column j: pixels of class i that were predicted as j.

    >>> [scores.tolist() for scores in class_scores(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))]
    [[0.75, 0.6666666666666666, nan], [0.75, 1.0, nan]]
    """
    right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    union = true + predicted - right
    iou = np.where(true > 0, right / np.maximum(union, 1), np.nan)
    return iou, np.where(true > 0, right / np.maximum(true, 1), np.nan)


def require_pixel_classes(batch: Mapping[str, np.ndarray], num_classes: int) -> None:
    """Reject a host batch without pixel classes, or with pixels outside the classes.

    Examples whose ``mask`` is False are not checked.

    Raises:
        UsageError: a value is invalid; the message has the first one and its example.

    >>> require_pixel_classes({"segmentation": np.array([[[0, 255]], [[1, 1]]])}, 2)
    """
    if FIELD not in batch:
        raise UsageError(f"segmentation needs examples with a field {FIELD!r}, and these have {', '.join(batch)}")
    labels = np.asarray(batch[FIELD])
    outside = (labels >= num_classes) & (labels != VOID) | (labels < 0)
    outside &= np.asarray(batch.get("mask", True), bool).reshape(-1, *(1,) * (labels.ndim - 1))
    if num_classes and outside.any():
        first = int(np.flatnonzero(outside.reshape(len(labels), -1).any(axis=1))[0])
        value = int(labels[first][outside[first]][0])
        raise UsageError(
            f"pixels of class {value} in example {first} of the batch, outside 0..{num_classes - 1}, the range of "
            f"{num_classes} classes; {int(outside.sum()):,} such pixels. 255 means no class and does not count"
        )


def _class_of(outputs: jax.Array) -> jax.Array:
    return jnp.argmax(outputs, axis=-1).astype(jnp.int32)


def _nearest(labels: jax.Array, sides: tuple[int, ...]) -> jax.Array:
    """Return labels (N, *sides) at another size, from the nearest pixel."""
    for axis, side in enumerate(sides, start=1):
        have = labels.shape[axis]
        if have != side:
            labels = labels.take(np.minimum((2 * np.arange(side) + 1) * have // (2 * side), have - 1), axis=axis)
    return labels


def _dice(log_p: jax.Array, rows: jax.Array, known: jax.Array) -> jax.Array:
    """Return one minus the Dice score of every example, averaged over its classes, (N,); 0 where there are none.

    Args:
        log_p: (N, pixels, K).
        rows: one-hot labels, (N, pixels, K).
        known: which pixels count, (N, pixels).
    """
    p = jnp.where(known[..., None], jnp.exp(log_p), 0.0)
    y = jnp.where(known[..., None], rows, 0.0)
    total, true = p.sum(axis=1) + y.sum(axis=1), y.sum(axis=1)
    present = true > 0
    dice = 2 * (p * y).sum(axis=1) / jnp.where(present, total, 1.0)
    return jnp.where(present, 1.0 - dice, 0.0).sum(axis=1) / jnp.maximum(present.sum(axis=1, dtype=p.dtype), 1)


@register_task("segmentation", uses=("class_weights", "dice_weight"))
def make_segmentation(config: TaskConfig, facts: TaskFacts) -> Segmentation:
    """Return the configured segmentation task; balanced weights are n / (K n_k) of the training pixels."""
    require_kind("segmentation", facts, "segmentation")
    require_outputs(facts, "classes", more=True)
    if not isinstance(config.class_weights, str) and len(config.class_weights) != facts.num_outputs:
        raise UsageError(f"task.class_weights has {len(config.class_weights)} numbers for {facts.num_outputs} classes")
    weights = class_weights_of(config, dataclasses.replace(facts, examples=sum(facts.counts)))
    return Segmentation(facts.num_outputs, weights, config.dice_weight, facts.names)
