"""Detection: any number of boxes anywhere in an image, each with a class.

The outputs are those of the heads ``fcos`` and ``retinanet`` (:mod:`resnet_jax.models.heads`): a dict of arrays, all
(N, P, ...), where P is the number of positions (or anchors) of all levels. With a key ``centre`` they are FCOS's. Boxes
are top, left, bottom, right in pixels of the network's input; batches have ``boxes`` (N, M, 4) and ``box_label`` (N,
M), with -1 for padding.

Metrics use these pixels too. IoU does not change when both boxes are scaled alike, so it equals that in the original
pixels if whole images were resized to the network's size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.ops.boxes import clipped, decode, encode, from_distances, generalized_iou
from resnet_jax.ops.nms import NO_BOX, best_boxes
from resnet_jax.tasks.assignment import Assigned, by_overlap, by_place, centreness
from resnet_jax.tasks.config import DetectionConfig, TaskConfig
from resnet_jax.tasks.detection_ap import (
    THRESHOLDS,
    ImageBoxes,
    RankedMatches,
    average_precisions,
    ranked_matches,
)
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.registry import register_task, require_kind, require_outputs
from resnet_jax.tasks.scores import mean_known
from resnet_jax.tasks.task import Answers, Batch, TaskBase

#: Name -> array; :class:`~resnet_jax.tasks.task.TaskBase` declares a single array.
Outputs: TypeAlias = Any
#: Flags of true boxes, and how they are handled: see :mod:`resnet_jax.tasks.detection_ap`.
FLAGS = ("crowd", "difficult")
#: Error from which the smooth L1 loss is linear (1/9 in the authors' code).
SMOOTH = 1.0 / 9.0


@dataclasses.dataclass(frozen=True)
class Detection(TaskBase):
    """Find the boxes of K classes.

    **The loss of an image** is the sum of the focal loss over positions and classes, divided by the number of the
    image's positive positions (at least 1), plus the mean box loss over these, plus, for FCOS, the mean cross-entropy
    of centerness. It therefore does not depend on the other images of a batch, and an image with one box counts as much
    as one with many; the papers divide by the positives of the whole batch. Crowds are not targets, and positions in
    them are not background.

    **Metrics**: ``ap50``, ``ap75`` and ``map`` (0.5 to 0.95) as in COCO, averaged over the classes that have boxes.

    Attributes:
        num_outputs: classes, K.
        threshold: score from which a box is drawn and returned by ``predict``.
        options: options of the loss, of the detections to keep, and of the headline.
        names: names of the classes, for notes.
    """

    kind: ClassVar[str] = "detection"
    mode: ClassVar[Literal["max", "min"]] = "max"
    heads: ClassVar[tuple[str, ...]] = ("fcos", "retinanet")
    draws_examples: ClassVar[bool] = True
    answers: ClassVar[Answers] = "boxes"

    threshold: float = 0.5
    options: DetectionConfig = dataclasses.field(default_factory=DetectionConfig)
    names: tuple[str, ...] = ()

    @property
    def headline(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # chosen by the user
        """``ap50`` or ``map``."""
        return self.options.headline

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Reject batches without boxes, labels outside the classes, and invalid boxes."""
        if "boxes" not in batch or "box_label" not in batch:
            raise UsageError(f"detection needs boxes and box_label in the batch, which has {', '.join(batch)}")
        counted = np.asarray(batch.get("mask", True), bool)
        labels, boxes = np.asarray(batch["box_label"]), np.asarray(batch["boxes"])
        strange = (labels < NO_BOX) | (labels >= self.num_outputs)
        wrong = ~np.isfinite(boxes).all(axis=-1) | (boxes[..., 2:] < boxes[..., :2]).any(axis=-1)
        for faults, what in ((strange, labels), (wrong & (labels != NO_BOX), boxes)):
            places = np.argwhere(faults & np.broadcast_to(counted[..., None], faults.shape))
            if len(places):
                example, place = places[0].tolist()
                right = f"0 to {self.num_outputs - 1}, or -1 for none" if what is labels else "top, left, bottom, right"
                raise UsageError(
                    f"box {place} of example {example} of the batch: {what[example, place].tolist()} is not {right}"
                )

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Return the loss of every image, (N,)."""
        return sum(self._parts(outputs, batch).values(), start=jnp.zeros(()))

    def train_sums(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Return the parts of the loss, (N,) each: ``class_loss``, ``box_loss`` and, for FCOS, ``centre_loss``."""
        return {f"{name}_loss": each for name, each in self._parts(outputs, batch).items()}

    def _parts(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        crowd = batch.get("crowd", jnp.zeros(batch["box_label"].shape, bool))
        return jax.vmap(self._parts_of_image)(dict(outputs), batch["boxes"], batch["box_label"], crowd)

    def _parts_of_image(
        self, outputs: Outputs, boxes: jax.Array, labels: jax.Array, crowd: jax.Array
    ) -> dict[str, jax.Array]:
        import optax

        boxes, anchors = boxes.astype(jnp.float32), outputs["anchors"]
        there = (labels != NO_BOX) & ~crowd
        rule = by_place if "centre" in outputs else by_overlap
        assigned = without_crowds(rule(anchors, boxes, there), anchors, boxes, crowd & (labels != NO_BOX))
        positive, own = assigned.positive, boxes[assigned.box]
        count = jnp.maximum(positive.sum(), 1).astype(jnp.float32)
        wanted = jax.nn.one_hot(jnp.where(positive, labels[assigned.box], NO_BOX), self.num_outputs)
        focal = optax.sigmoid_focal_loss(
            outputs["class"], wanted, alpha=self.options.focal_alpha, gamma=self.options.focal_gamma
        )
        parts = {"class": jnp.where(assigned.ignored, 0.0, focal.sum(axis=-1)).sum() / count}
        own = jnp.where(positive[:, None], own, anchors)  # any box with an area; it does not count
        if "centre" not in outputs:
            return {**parts, "box": jnp.where(positive, self._box_loss(outputs, own), 0.0).sum() / count}
        weights = jnp.where(positive, centreness(anchors, own), 0.0)
        losses = jnp.where(positive, self._box_loss(outputs, own), 0.0)
        parts["box"] = (losses * weights).sum() / jnp.maximum(weights.sum(), 1e-3)
        centre = optax.sigmoid_binary_cross_entropy(outputs["centre"], weights)
        parts["centre"] = jnp.where(positive, centre, 0.0).sum() / count
        return parts

    def _box_loss(self, outputs: Outputs, own: jax.Array) -> jax.Array:
        """Return the loss of every place's box, (P,)."""
        import optax

        by_centre = "centre" in outputs
        kind = self.options.box_loss or ("giou" if by_centre else "smooth_l1")
        if kind == "giou":
            return 1.0 - generalized_iou(decoded(outputs), own)
        if by_centre:
            raise UsageError("task.detection.box_loss smooth_l1 is for head retinanet; use giou with fcos")
        error = optax.huber_loss(outputs["box"], encode(own, outputs["anchors"]), delta=SMOOTH)
        return error.sum(axis=-1) / SMOOTH

    def detections(self, outputs: Outputs) -> dict[str, jax.Array]:
        """Return the detections of every image, clipped to the network's input, best first.

        Returns:
            ``boxes`` (N, D, 4), ``scores`` (N, D) and ``labels`` (N, D), int32, with D = ``max_detections``; missing
            detections have the label -1.
        """
        options = self.options

        def of_image(outputs: Outputs) -> dict[str, jax.Array]:
            found = best_boxes(
                clipped(decoded(outputs), outputs["size"][None]),
                box_scores(outputs),
                score_threshold=options.score_threshold,
                iou_threshold=options.nms_iou,
                candidates=options.candidates,
                most=options.max_detections,
            )
            return dict(zip(("boxes", "scores", "labels"), found, strict=True))

        return jax.vmap(of_image)(dict(outputs))

    def eval_sums(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Return nothing: average precision is computed over all images at once."""
        return {}

    def eval_rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Return ``found_boxes``, ``found_scores`` and ``found_labels`` of every image, and its true boxes."""
        found = {f"found_{name}": each for name, each in self.detections(outputs).items()}
        return {**found, **{name: batch[name] for name in ("boxes", "box_label", *FLAGS) if name in batch}}

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return AP50, AP75 and the mean over 0.5 to 0.95, averaged over the classes that have boxes."""
        by_class = self._precisions(rows)
        return {
            "ap50": mean_known(by_class[0]),
            "ap75": mean_known(by_class[int(np.argmin(np.abs(THRESHOLDS - 0.75)))]),
            "map": mean_known(by_class.mean(axis=0)),
        }

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return ``ap50`` and ``map`` of every class, float64 (K,); NaN for a class without boxes."""
        by_class = self._precisions(rows)
        return {"ap50": by_class[0], "map": by_class.mean(axis=0)}

    def eval_notes(self, details: Mapping[str, Any]) -> tuple[str, ...]:
        """Name the classes without boxes."""
        missing = np.flatnonzero(np.isnan(details["ap50"]))
        if not len(missing):
            return ()
        listed = ", ".join(self.names[k] if self.names else str(k) for k in missing[:5].tolist())
        more = ", ..." if len(missing) > 5 else ""
        return (f"{len(missing)} of {self.num_outputs} classes ({listed}{more}) have no boxes: means leave them out",)

    def matches(self, rows: Mapping[str, np.ndarray], label: int) -> RankedMatches:
        """Return which detections of a class are correct, given :meth:`eval_rows` of all images."""
        return ranked_matches(*_image_boxes(rows), label)

    def _precisions(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        return average_precisions(*_image_boxes(rows), self.num_outputs)

    def mean_outputs(self, outputs: Any) -> Any:
        """Raise an error: the boxes of a flipped or shifted image are elsewhere."""
        raise UsageError("test-time views do not support detection: the boxes of a flipped image are elsewhere")

    def located(self, outputs: Outputs) -> dict[str, np.ndarray]:
        """Return :meth:`detections` on the host; those below ``threshold`` have the label -1."""
        found = jax.tree.map(np.asarray, _detections(self, dict(outputs)))
        return {**found, "labels": np.where(found["scores"] >= self.threshold, found["labels"], NO_BOX)}

    def predict(self, outputs: Any, top: int) -> list[list[tuple[int, float]]]:
        """Return class and score of every box with a score of at least ``threshold``, best first."""
        found = self.located(outputs)
        rows = zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
        return [[pair for pair in zip(*row, strict=True) if pair[0] != NO_BOX] for row in rows]

    def predicted_fields(self, outputs: Any) -> dict[str, np.ndarray]:
        """Return ``boxes``, ``box_label`` and a caption with the number of boxes."""
        found = self.located(outputs)
        counts = (found["labels"] != NO_BOX).sum(axis=1)
        captions = [f"{count} box{'' if count == 1 else 'es'}, score ≥ {self.threshold:g}" for count in counts]
        return {"boxes": found["boxes"], "box_label": found["labels"], "caption": np.array(captions)}


def _image_boxes(rows: Mapping[str, np.ndarray]) -> tuple[ImageBoxes, ImageBoxes]:
    """Return detections and true boxes from :meth:`Detection.eval_rows`."""
    found = ImageBoxes(rows["found_boxes"], rows["found_labels"], scores=rows["found_scores"])
    return found, ImageBoxes(rows["boxes"], rows["box_label"], **{name: rows[name] for name in FLAGS if name in rows})


@functools.partial(jax.jit, static_argnums=0)
def _detections(task: Detection, outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return task.detections(outputs)


def box_scores(outputs: Outputs) -> jax.Array:
    """Return the scores of all positions of an image for all classes, (P, K), by which boxes are ranked."""
    scores = jax.nn.sigmoid(outputs["class"])
    return jnp.sqrt(scores * jax.nn.sigmoid(outputs["centre"])[:, None]) if "centre" in outputs else scores


def decoded(outputs: Outputs) -> jax.Array:
    """Return the box of every position, (..., P, 4), in pixels."""
    return (from_distances if "centre" in outputs else decode)(outputs["box"], outputs["anchors"])


def without_crowds(assigned: Assigned, anchors: jax.Array, boxes: jax.Array, crowd: jax.Array) -> Assigned:
    """Return an assignment in which positions whose center lies in a crowd are not background.

    Args:
        assigned: assignment of P positions.
        anchors: (P, 4).
        boxes: (M, 4).
        crowd: (M,) which of the boxes are crowds.
    """
    places = (anchors[:, None, :2] + anchors[:, None, 2:]) * 0.5
    inside = ((places >= boxes[None, :, :2]) & (places <= boxes[None, :, 2:])).all(axis=-1)
    ignored = (inside & crowd[None]).any(axis=1) & ~assigned.positive
    return assigned._replace(ignored=assigned.ignored | ignored)


@register_task("detection", uses=("threshold", "detection"))  # pyright: ignore[reportArgumentType]  # its headline
def make_detection(config: TaskConfig, facts: TaskFacts) -> Detection:
    """Return the configured detection task."""
    require_kind("detection", facts, "boxes")
    require_outputs(facts, "classes")
    if len(config.threshold) != 1:
        raise UsageError(f"task.threshold must be one number for task.kind detection, got {config.threshold}")
    return Detection(facts.num_outputs, config.threshold[0], config.detection, facts.names)
