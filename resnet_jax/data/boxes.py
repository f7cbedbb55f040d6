"""Boxes of an example: the corner convention, and what happens to boxes of which nothing is left.

A box is top, left, bottom, right in pixels, counted from 0, with the far corner exclusive: the first pixel of an image
is (0, 0, 1, 1), the whole image (0, 0, height, width). Boxes are padded to the same number for all examples; padding is
a box of zeros with the label :data:`NO_BOX`.
"""

from __future__ import annotations

import numpy as np

from resnet_jax.data.example import Example, Spec

NO_BOX = -1
"""Label of a missing box: padding, or one that a crop has removed."""
LEAST_SIDE = 1.0
"""Minimum height and width in pixels for a box to count after it was moved and clipped, as in torchvision's
SanitizeBoundingBoxes."""
WHOLE = 0.0
"""The same if nothing is clipped: every box counts."""


def without_empty(example: Example, spec: Spec, least_side: float = LEAST_SIDE) -> Example:
    """Return the example with boxes that have a side below ``least_side`` pixels turned into padding: zeros, label -1.

    Every transform that moves boxes ends with this. The number and order of boxes are kept, so shapes are static.

    Args:
        example: boxes that were moved and clipped at the border, and their labels in ``box_label``.
        spec: the meaning of its fields; boxes are those with the meaning ``boxes``.
        least_side: minimum side in pixels.

    Returns:
        A new dict with new arrays if something changed; otherwise the given one.

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
