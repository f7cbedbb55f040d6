"""The number of a network's outputs to explain: the score of a class, of a box, or of the pixels of a class."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.errors import UsageError
from resnet_jax.ops import at_least_float32
from resnet_jax.tasks.binary import Binary
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.detection import Detection, box_scores
from resnet_jax.tasks.multilabel import MultiLabel
from resnet_jax.tasks.multitask import Multitask
from resnet_jax.tasks.segmentation import Segmentation
from resnet_jax.tasks.task import Task

Kind: TypeAlias = Literal["softmax", "sigmoid", "value", "yes_no", "pixels", "box"]
"""Kind of an output: one class among others, an independent label, a number, yes or no, pixels, a box."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Target:
    """One number of the outputs of every image. It can be passed to a compiled function, which traces its arrays.

    Attributes:
        index: index of the class, label or value, int32 (N,).
        region: for pixels: those that count, bool ``(N, *sides)``, at the size of the outputs.
        place: for boxes: index among the P positions of the outputs, int32 (N,).
        kind: kind of the output; see :data:`Kind`.
        head: with several heads, the name of the one that is explained.

    >>> target = Target(jnp.array([1], jnp.int32))
    >>> outputs = jnp.array([[0.0, 2.0]])
    >>> target.score(outputs).tolist(), [f"{p:.3f}" for p in target.probability(outputs)]
    ([2.0], ['0.881'])
    """

    index: Int[Array, " n"]
    region: Bool[Array, " n *sides"] | None = None
    place: Int[Array, " n"] | None = None
    kind: Kind = dataclasses.field(default="softmax", metadata={"static": True})
    head: str | None = dataclasses.field(default=None, metadata={"static": True})

    def score(self, outputs: Any) -> Float[Array, " n"]:
        """Return the score to differentiate, float32 (N,).

        For classes and labels this is the logit, as in Grad-CAM and Captum; for yes or no, the logit of that answer;
        for pixels, the sum of the class's logits over ``region``; for a box, the score by which boxes are ranked.
        """
        return self._pick(outputs, probability=False)

    def probability(self, outputs: Any) -> Float[Array, " n"]:
        """Return the number between 0 and 1 that people read, float32 (N,): for pixels its mean; for a value, the value
        itself.
        """
        return self._pick(outputs, probability=True)

    def _pick(self, outputs: Any, *, probability: bool) -> Array:
        outputs = outputs if self.head is None else outputs[self.head]
        rows = jnp.arange(self.index.shape[0])
        if self.kind == "box":
            return place_scores(outputs)[rows, self.place, self.index].astype(jnp.float32)
        values = outputs.astype(at_least_float32(outputs.dtype))
        match self.kind:
            case "softmax":
                return (jax.nn.softmax(values, axis=-1) if probability else values)[rows, self.index]
            case "sigmoid":
                return (jax.nn.sigmoid(values) if probability else values)[rows, self.index]
            case "value":
                return values[rows, self.index]
            case "yes_no":
                logit = jnp.where(self.index == 1, values[:, 0], -values[:, 0])
                return jax.nn.sigmoid(logit) if probability else logit
            case "pixels":
                assert self.region is not None
                own = _of_class(jax.nn.softmax(values, axis=-1) if probability else values, self.index)
                weights = self.region.astype(jnp.float32)
                axes = tuple(range(1, own.ndim))
                total = (own * weights).sum(axis=axes)
                return total / jnp.maximum(weights.sum(axis=axes), 1.0) if probability else total
            case _:
                raise UsageError(f"no such kind of target: {self.kind!r}")


TargetLike: TypeAlias = Target | jax.Array
"""A target, or the classes of images for a classifier, int (N,)."""


def as_target(target: Any) -> Target:
    """Return a target; classes (N,) are converted to one."""
    return target if isinstance(target, Target) else Target(jnp.asarray(target, jnp.int32))


def choose_target(task: Task, outputs: Any, wanted: Any = None, head: str | None = None) -> Target:
    """Return what to explain for every image: the network's first prediction, or what is wanted. May be traced.

    ==============  ====================================================================================
    task            target
    ==============  ====================================================================================
    classification  the most likely class
    multilabel      the most likely label
    binary          the answer, yes or no
    regression      the first value
    segmentation    the class with the most pixels, over the pixels predicted as that class
    detection       the box with the highest score
    multitask       the target of the first head, or of ``head``
    ==============  ====================================================================================

    Args:
        task: the task of the network.
        outputs: outputs for N images.
        wanted: another class, label or value, as an index or int (N,): its score, the pixels predicted as it, its best
            box.
        head: with several tasks, which one.

    Raises:
        UsageError: there is no such head.
    """
    if isinstance(task, Multitask):
        parts = {part.name: part.task for part in task.parts}
        name = next(iter(parts)) if head is None else head
        if name not in parts:
            raise UsageError(f"no head {name!r}: the network has {', '.join(parts)}")
        return dataclasses.replace(choose_target(parts[name], outputs[name], wanted), head=name)
    if head is not None:
        raise UsageError(f"head {head!r}: a network for {task.kind} has one head; leave it out")
    if isinstance(task, Detection):
        scores = place_scores(outputs)
        if wanted is None:
            best = scores.reshape(scores.shape[0], -1).argmax(axis=1)
            place, index = jnp.divmod(best, scores.shape[-1])
        else:
            index = _rows(wanted, scores.shape[0])
            place = _of_class(scores, index).argmax(axis=1)
        return Target(index.astype(jnp.int32), place=place.astype(jnp.int32), kind="box")
    if isinstance(task, Segmentation):
        found = outputs.argmax(axis=-1)
        if wanted is None:
            flat = found.reshape(found.shape[0], -1)
            counts = (flat[..., None] == jnp.arange(outputs.shape[-1])[None, None]).sum(axis=1)
            index = counts.argmax(axis=1)
        else:
            index = _rows(wanted, found.shape[0])
        region = found == index.reshape(-1, *(1,) * (found.ndim - 1))
        return Target(index.astype(jnp.int32), region=region, kind="pixels")
    count = outputs.shape[0]
    if isinstance(task, Binary):
        index = outputs.reshape(count, -1)[:, 0] > 0 if wanted is None else _rows(wanted, count)
        return Target(index.astype(jnp.int32), kind="yes_no")
    kind: Kind = "value"
    best = jnp.zeros(count, jnp.int32)
    if isinstance(task, Classification | MultiLabel):
        best = outputs.argmax(axis=-1)
        kind = "sigmoid"
        if isinstance(task, Classification) and task.criterion != "bce":
            kind = "value" if task.criterion == "mse" else "softmax"  # with mse, outputs are trained to be 0 or 1
    return Target((best if wanted is None else _rows(wanted, count)).astype(jnp.int32), kind=kind)


def place_scores(outputs: Any) -> Float[Array, "n p k"]:
    """Return the scores of all positions of a detector for all classes, by which its boxes are ranked."""
    return jax.vmap(box_scores)(dict(outputs))


def _of_class(values: Array, index: Array) -> Array:
    """Return values (N, ..., K) at one class per image, (N, ...)."""
    at = index.reshape(-1, *(1,) * (values.ndim - 1)).astype(jnp.int32)
    return jnp.take_along_axis(values, at, axis=-1)[..., 0]


def _rows(wanted: Any, count: int) -> Array:
    return jnp.broadcast_to(jnp.asarray(wanted, jnp.int32).reshape(-1), (count,))
