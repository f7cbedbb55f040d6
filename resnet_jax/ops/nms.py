"""Non-maximum suppression with static shapes, inside ``jit``: the same boxes as the greedy loop keeps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.ops.boxes import iou

#: Label where there is no box.
NO_BOX = -1


def kept_of_sorted(
    boxes: Float[Array, "c 4"], labels: Int[Array, " c"], threshold: float, valid: Bool[Array, " c"]
) -> Bool[Array, " c"]:
    """Return which boxes greedy suppression keeps, of boxes in order of falling scores.

    The loop takes the best box that is left and drops those of its class that overlap it by more than the threshold.
    So a box stays exactly if no better one that stays overlaps it. That is iterated from "all stay" until nothing
    changes: after n rounds the first n boxes are decided, and mostly a few rounds decide all.

    Args:
        boxes: the best first.
        labels: of each; boxes of different classes do not drop each other.
        threshold: overlap (IoU) above which the worse one goes.
        valid: boxes that there are.

    >>> boxes = jnp.array([[0.0, 0, 4, 4], [0, 1, 4, 5], [0, 2, 4, 6]])
    >>> kept_of_sorted(boxes, jnp.zeros(3, jnp.int32), 0.5, jnp.ones(3, bool)).tolist()
    [True, False, True]
    """
    number = jnp.arange(len(boxes))
    better = (number[:, None] < number[None]) & (labels[:, None] == labels[None])
    drops = (iou(boxes[:, None], boxes[None]) > threshold) & better

    def changed(state: tuple[Array, Array]) -> Array:
        return jnp.any(state[0] != state[1])

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        kept = state[1]
        return kept, valid & ~jnp.any(drops & kept[:, None], axis=0)

    return jax.lax.while_loop(changed, again, (~valid, valid))[1]


def best_boxes(
    boxes: Float[Array, "p 4"],
    scores: Float[Array, "p k"],
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    most: int,
) -> tuple[Float[Array, "d 4"], Float[Array, " d"], Int[Array, " d"]]:
    """Return the detections of one image: suppressed by class, the best first.

    Args:
        boxes: of every place.
        scores: of every place and class.
        score_threshold: a score must be above it.
        iou_threshold: of the suppression.
        candidates: so many of the best scores are looked at.
        most: detections at most, D.

    Returns:
        Boxes, scores and labels; where there are fewer, zeros with the label -1. Of equal scores the first place and
        the first class come first.

    >>> boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 4], [8, 8, 9, 9]])
    >>> scores = jnp.array([[0.5, 0.0], [0.9, 0.4], [0.0, 0.3]])
    >>> best_boxes(boxes, scores, score_threshold=0.1, iou_threshold=0.5, candidates=9, most=4)[2].tolist()
    [0, 1, 1, -1]
    """
    classes = scores.shape[1]
    found, flat = jax.lax.top_k(scores.reshape(-1), min(candidates, scores.size))
    places, labels = flat // classes, (flat % classes).astype(jnp.int32)
    valid = found > score_threshold
    kept = kept_of_sorted(boxes[places], labels, iou_threshold, valid)
    order = jnp.argsort(~kept, stable=True)[:most]
    there = kept[order]
    listed = (
        jnp.where(there[:, None], boxes[places][order], 0.0),
        jnp.where(there, found[order], 0.0),
        jnp.where(there, labels[order], NO_BOX),
    )
    missing = most - len(order)
    if missing <= 0:
        return listed
    return (
        jnp.pad(listed[0], ((0, missing), (0, 0))),
        jnp.pad(listed[1], (0, missing)),
        jnp.pad(listed[2], (0, missing), constant_values=NO_BOX),
    )
