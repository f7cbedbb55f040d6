"""Boxes of an example: one corner convention, and what becomes of boxes of which nothing is left.

A box is top, left, bottom, right in pixels, counted from 0, the far corner exclusive: the first pixel of an image is
(0, 0, 1, 1), a whole image (0, 0, height, width). Boxes are padded to one number for all examples; padding is a box of
zeros whose label is :data:`NO_BOX`.
"""

from __future__ import annotations

import numpy as np

from resnet_jax.data.example import Example, Spec

NO_BOX = -1
"""Label of a box that is none: padding, or one that a crop has left outside."""
LEAST_SIDE = 1.0
"""Pixels that height and width of a box need for it to count after it was moved and cut off, as in torchvision's
SanitizeBoundingBoxes."""
WHOLE = 0.0
"""The same where nothing is cut off: every box counts."""


def without_empty(example: Example, spec: Spec, least_side: float = LEAST_SIDE) -> Example:
    """Return the example whose boxes with a side below ``least_side`` pixels are padding: zeros of label -1.

    Every transform that moves boxes ends with it. The number and order of boxes stay, so that shapes do.

    Args:
        example: boxes that were moved and cut off at the border, and their labels in ``box_label``.
        spec: what its fields are; boxes are those of the meaning ``boxes``.
        least_side: in pixels.

    Returns:
        A new dict where something changed, with new arrays; else the one that was given.

    >>> from resnet_jax.data.example import spec_of
    >>> example = {"boxes": np.array([[0, 0, 5, 5], [8, 8, 8, 8]], np.float32), "box_label": np.array([2, 1], np.int32)}
    >>> without_empty(example, spec_of(example))["box_label"].tolist()
    [2, -1]
    """
    changed: Example = {}
    for name, boxes in example.items():
        if name not in spec or spec[name].meaning != "boxes":
            continue
        sides = boxes[:, 2:] - boxes[:, :2]
        empty = np.any(sides < least_side, axis=1)
        if not empty.any():
            continue
        changed[name] = np.where(empty[:, None], np.zeros((), boxes.dtype), boxes)
        if name == "boxes" and "box_label" in example:
            labels = example["box_label"]
            changed["box_label"] = np.where(empty, np.array(NO_BOX, labels.dtype), labels)
    return {**example, **changed} if changed else example
