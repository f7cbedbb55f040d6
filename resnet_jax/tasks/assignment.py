"""Which ground-truth box each position of a detector's map should find: the rules of FCOS and of RetinaNet, under
``jit``.

Functions process one image: P positions, and M true boxes padded with the label -1. Shapes do not depend on the number
of boxes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.ops.boxes import area, iou, middle

#: Half the side of the central square of a box whose positions should find the box, in strides.
RADIUS = 1.5
#: A pyramid level has the boxes whose farthest side is this many strides away: FCOS's 64 to 128 at stride 16.
REACH = (4.0, 8.0)
#: IoU with an anchor from which a box is assigned to it, and below which the anchor is background.
MATCHED, BACKGROUND = 0.5, 0.4


class Assigned(NamedTuple):
    """The target of each of P positions.

    Attributes:
        box: index of the true box among M.
        positive: whether the position has a box; otherwise it is background.
        ignored: positions that do not count.
    """

    box: Int[Array, " p"]
    positive: Bool[Array, " p"]
    ignored: Bool[Array, " p"]


def by_place(cells: Float[Array, "p 4"], boxes: Float[Array, "m 4"], there: Bool[Array, " m"]) -> Assigned:
    """Assign boxes as FCOS does, with center sampling (Tian et al. 2020, arXiv 2006.09214, section 3).

    A position is assigned a box if it lies in the box, within 1.5 strides of its center along either axis, and if the
    farthest side of the box is 4 to 8 strides away (at most 8 at the finest stride, at least 4 at the coarsest). Among
    several boxes it takes the smallest.

    Args:
        cells: cells of the maps; their centers are the positions, their sides the strides.
        boxes: true boxes.
        there: which of them are not padding.

    >>> cells = jnp.array([[0.0, 0, 8, 8], [0, 8, 8, 16]])
    >>> by_place(cells, jnp.array([[0.0, 0, 7, 7]]), jnp.array([True])).positive.tolist()
    [True, False]
    """
    places, strides = middle(cells)[:, None], (cells[:, 2] - cells[:, 0])[:, None]
    reach = jnp.concatenate([places - boxes[None, :, :2], boxes[None, :, 2:] - places], axis=-1)
    inside = jnp.min(reach, axis=-1) > 0
    near = jnp.max(jnp.abs(places - middle(boxes)[None]), axis=-1) < RADIUS * strides
    farthest = jnp.max(reach, axis=-1)
    low = jnp.where(strides == strides.min(), 0.0, REACH[0] * strides)
    high = jnp.where(strides == strides.max(), jnp.inf, REACH[1] * strides)
    wanted = inside & near & (farthest > low) & (farthest <= high) & there[None]
    sizes = jnp.where(wanted, area(boxes)[None], jnp.inf)
    positive = wanted.any(axis=1)
    return Assigned(jnp.argmin(sizes, axis=1), positive, jnp.zeros_like(positive))


def by_overlap(anchors: Float[Array, "p 4"], boxes: Float[Array, "m 4"], there: Bool[Array, " m"]) -> Assigned:
    """Assign boxes as RetinaNet does (Lin et al. 2017, section 4.1; torchvision's Matcher with low-quality matches).

    An anchor is assigned the box with which it has the highest IoU if that is 0.5 or more. Below 0.4 it is background,
    and in between it does not count. So that no box is left out, the anchors that have the highest IoU with some box
    are assigned too, whatever the IoU is.

    Args:
        anchors: anchors of all positions.
        boxes: true boxes.
        there: which of them are not padding.

    >>> anchors = jnp.array([[0.0, 0, 8, 8], [0, 4, 8, 12], [20, 20, 28, 28]])
    >>> by_overlap(anchors, jnp.array([[0.0, 0, 8, 6]]), jnp.array([True])).positive.tolist()
    [True, False, False]
    """
    overlaps = jnp.where(there[None], iou(anchors[:, None], boxes[None]), -1.0)
    best = overlaps.max(axis=1)
    of_box = overlaps.max(axis=0)
    rescued = ((overlaps == of_box[None]) & (of_box > 0)[None]).any(axis=1)
    positive = (best >= MATCHED) | rescued
    return Assigned(jnp.argmax(overlaps, axis=1), positive, (best >= BACKGROUND) & ~positive)


def centreness(cells: Float[Array, "p 4"], boxes: Float[Array, "p 4"]) -> Float[Array, " p"]:
    """Return sqrt(min(l, r) / max(l, r) min(t, b) / max(t, b)) of each position in its box; FCOS, equation 3.

    Args:
        cells: cells whose centers are the positions.
        boxes: one box per position; a position outside its box gets 0.

    >>> centreness(jnp.array([[0.0, 0, 2, 2]]), jnp.array([[0.0, 0, 2, 4]])).round(3).tolist()
    [0.5770000219345093]
    """
    places = middle(cells)
    near, far = places - boxes[:, :2], boxes[:, 2:] - places
    shares = jnp.minimum(near, far) / jnp.maximum(jnp.maximum(near, far), 1e-6)
    return jnp.sqrt(jnp.prod(jnp.clip(shares, 0.0, 1.0), axis=-1))
