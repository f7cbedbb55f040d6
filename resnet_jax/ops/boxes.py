"""Boxes as arrays: IoU, and the numbers with which a network describes a box relative to a position of its map.

A box is top, left, bottom, right in pixels (:mod:`resnet_jax.data.boxes`). All functions work on (..., 4) and
broadcast. Their gradients are always finite, even for boxes without area.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

#: Smallest area in pixels^2; smaller areas count as this, so that nothing is divided by 0.
LEAST_AREA = 1e-6
#: Bound on the logarithms of sides, as in torchvision: a box is at most 62.5 times its anchor.
MOST_LOG = math.log(1000.0 / 16)


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Return the area of boxes; 0 if the far corner is not beyond the near one.

    >>> area(jnp.array([[0.0, 0, 2, 3], [2, 2, 1, 5]])).tolist()
    [6.0, 0.0]
    """
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return jnp.maximum(height, 0.0) * jnp.maximum(width, 0.0)


def iou(one: Float[Array, "*n 4"], other: Float[Array, "*m 4"]) -> Float[Array, "*k"]:
    """Return the intersection over union of boxes, which broadcast against each other.

    For all pairs, use ``iou(one[:, None], other[None])``.

    >>> round(float(iou(jnp.array([0.0, 0, 2, 2]), jnp.array([0.0, 1, 2, 3]))), 4)
    0.3333
    """
    shared, union = _shared_and_union(one, other)
    return shared / jnp.maximum(union, LEAST_AREA)


def generalized_iou(one: Float[Array, "*n 4"], other: Float[Array, "*m 4"]) -> Float[Array, "*k"]:
    """Return IoU - (C - union) / C, where C is the area of the smallest enclosing box; in (-1, 1].

    H. Rezatofighi et al., Generalized Intersection over Union (CVPR 2019), algorithm 1.

    >>> round(float(generalized_iou(jnp.array([0.0, 0, 1, 1]), jnp.array([0.0, 2, 1, 3]))), 4)
    -0.3333
    """
    shared, union = _shared_and_union(one, other)
    around = jnp.concatenate(
        [jnp.minimum(one[..., :2], other[..., :2]), jnp.maximum(one[..., 2:], other[..., 2:])], axis=-1
    )
    whole = jnp.maximum(area(around), LEAST_AREA)
    return shared / jnp.maximum(union, LEAST_AREA) - (whole - union) / whole


def _shared_and_union(one: Array, other: Array) -> tuple[Array, Array]:
    sides = jnp.minimum(one[..., 2:], other[..., 2:]) - jnp.maximum(one[..., :2], other[..., :2])
    sides = jnp.maximum(sides, 0.0)
    shared = sides[..., 0] * sides[..., 1]
    return shared, area(one) + area(other) - shared


def middle(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """Return row and column of the center of boxes.

    >>> middle(jnp.array([0.0, 2, 4, 4])).tolist()
    [2.0, 3.0]
    """
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5


def from_distances(numbers: Float[Array, "*n 4"], cells: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Return the boxes whose sides are exp(numbers) cell heights away from the centers of cells (FCOS, section 3.2).

    Args:
        numbers: logarithms of the distances up, left, down and right, in heights of the cell.
        cells: square cells of the map, as boxes.

    >>> from_distances(jnp.zeros(4), jnp.array([0.0, 0, 8, 8])).tolist()
    [-4.0, -4.0, 12.0, 12.0]
    """
    side = (cells[..., 2] - cells[..., 0])[..., None]
    distances = side * jnp.exp(jnp.minimum(numbers, MOST_LOG))
    places = middle(cells)
    return jnp.concatenate([places - distances[..., :2], places + distances[..., 2:]], axis=-1)


def encode(boxes: Float[Array, "*n 4"], anchors: Float[Array, "*m 4"]) -> Float[Array, "*k 4"]:
    """Return boxes relative to anchors: shifts of the center in anchor sides, logarithms of the ratios of sides.

    S. Ren et al., Faster R-CNN (2015), equation 2, in the order down, right, height, width. Sides of a box count as at
    least 1 pixel. :func:`decode` is the inverse.

    >>> encode(jnp.array([0.0, 0, 4, 4]), jnp.array([0.0, 0, 2, 2])).round(3).tolist()
    [0.5, 0.5, 0.6930000185966492, 0.6930000185966492]
    """
    own = anchors[..., 2:] - anchors[..., :2]
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 1.0)
    return jnp.concatenate([(middle(boxes) - middle(anchors)) / own, jnp.log(sides / own)], axis=-1)


def decode(numbers: Float[Array, "*n 4"], anchors: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Return the boxes for which :func:`encode` returns these numbers.

    >>> decode(jnp.array([0.5, 0, 0, 0]), jnp.array([0.0, 0, 2, 2])).tolist()
    [1.0, 0.0, 3.0, 2.0]
    """
    own = anchors[..., 2:] - anchors[..., :2]
    places = middle(anchors) + numbers[..., :2] * own
    half = 0.5 * own * jnp.exp(jnp.minimum(numbers[..., 2:], MOST_LOG))
    return jnp.concatenate([places - half, places + half], axis=-1)


def clipped(boxes: Float[Array, "*n 4"], size: Float[Array, "*m 2"]) -> Float[Array, "*n 4"]:
    """Return boxes clipped to the border of their images.

    Args:
        boxes: any boxes.
        size: height and width.

    >>> clipped(jnp.array([-1.0, 2, 9, 9]), jnp.array([4.0, 8.0])).tolist()
    [0.0, 2.0, 4.0, 8.0]
    """
    return jnp.clip(boxes, 0.0, jnp.concatenate([size, size], axis=-1))
