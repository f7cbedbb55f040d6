"""Which true box every place of a detector's map is to find: the rules of FCOS and of RetinaNet, within ``jit``.

Functions take one image: P places, and M true boxes padded with the label -1; shapes do not depend on how many there
are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.ops.boxes import area, iou, middle

#: Half the side of the square in a box's middle whose places are to find it, in strides.
RADIUS = 1.5
#: A level of the pyramid has the boxes whose farthest side is so many strides away: FCOS's 64 to 128 at stride 16.
REACH = (4.0, 8.0)
#: IoU with an anchor from which a box is its own, and below which the anchor is background.
MATCHED, BACKGROUND = 0.5, 0.4


class Assigned(NamedTuple):
    """What each of P places is to say.

    Attributes:
        box: the true box, an index of M.
        positive: whether it has one; else it is background.
        ignored: places that count nowhere.
    """

    box: Int[Array, " p"]
    positive: Bool[Array, " p"]
    ignored: Bool[Array, " p"]


def by_place(cells: Float[Array, "p 4"], boxes: Float[Array, "m 4"], there: Bool[Array, " m"]) -> Assigned:
    """Assign as FCOS does, with sampling of the centre (Tian et al. 2020, arXiv 2006.09214, section 3).

    A place is to find a box if it lies in the box, within 1.5 strides of its middle along either axis, and if the
    farthest side of the box is 4 to 8 strides away; up to 8 at the finest stride, from 4 on at the coarsest. Of several
    boxes it takes the smallest.

    Args:
        cells: squares of the maps; their middles are the places, their sides the strides.
        boxes: true boxes.
        there: which of them are none of the padding.

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
    """Assign as RetinaNet does (Lin et al. 2017, section 4.1; torchvision's Matcher with low-quality matches).

    An anchor is to find the box that it overlaps most, if the IoU is 0.5 or more; it is background below 0.4, and
    counts nowhere between. So that no box is left out, anchors that overlap some box more than all others do are to
    find theirs too, whatever the IoU is.

    Args:
        anchors: of all places.
        boxes: true boxes.
        there: which of them are none of the padding.

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
    """Return sqrt(min(l, r) / max(l, r) min(t, b) / max(t, b)) of each place in its box; FCOS, equation 3.

    Args:
        cells: whose middles are the places.
        boxes: one of each; a place that is outside has 0.

    >>> centreness(jnp.array([[0.0, 0, 2, 2]]), jnp.array([[0.0, 0, 2, 4]])).round(3).tolist()
    [0.5770000219345093]
    """
    places = middle(cells)
    near, far = places - boxes[:, :2], boxes[:, 2:] - places
    shares = jnp.minimum(near, far) / jnp.maximum(jnp.maximum(near, far), 1e-6)
    return jnp.sqrt(jnp.prod(jnp.clip(shares, 0.0, 1.0), axis=-1))
