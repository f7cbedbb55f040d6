"""Non-maximum suppression with static shapes, under ``jit``: it keeps the same boxes as the greedy loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.ops.boxes import iou

#: Label of padding.
NO_BOX = -1


def kept_of_sorted(
    boxes: Float[Array, "c 4"], labels: Int[Array, " c"], threshold: float, valid: Bool[Array, " c"]
) -> Bool[Array, " c"]:
    """Return which boxes greedy suppression keeps, given boxes in order of falling scores.

    The greedy loop takes the best remaining box and drops those of its class whose IoU with it exceeds the threshold. A
    box is therefore kept exactly if no better box that is kept overlaps it. This is iterated from "keep all" until
    nothing changes: after n rounds the first n boxes are decided, and usually a few rounds decide all.

    Args:
        boxes: best first.
        labels: label of each; boxes of different classes do not suppress each other.
        threshold: IoU above which the worse box is dropped.
        valid: which boxes are not padding.

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
    """Return the detections of one image, suppressed by class, best first.

    Args:
        boxes: boxes of all positions.
        scores: scores of all positions and classes.
        score_threshold: a score must exceed it.
        iou_threshold: threshold of the suppression.
        candidates: number of best scores to consider.
        most: maximum number of detections, D.

    Returns:
        Boxes, scores and labels; missing ones are zeros with the label -1. Among equal scores, the first position and
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
