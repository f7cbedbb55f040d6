"""Detections as JSON in COCO's format: ``images``, ``categories`` and ``annotations`` with a ``score`` each.

Boxes are x, y, width, height in pixels of the image as it is stored. ``pycocotools.coco.COCO(file)`` reads the whole,
and ``COCO.loadRes`` takes the list ``annotations``. Ids are those of the source where it has some (``coco:``), else
images and categories count from 1.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import RunError
from resnet_jax.runtime.files import write_whole


@dataclasses.dataclass(frozen=True)
class Located:
    """What was found in one image.

    Attributes:
        name: of the image: a path, or what it is called.
        sides: its height and width as stored.
        boxes: (n, 4) top, left, bottom, right in its pixels.
        labels: (n,) classes.
        scores: (n,).
        number: its id; None for its place.
    """

    name: str
    sides: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    number: int | None = None


def coco_object(found: Iterable[Located], names: Sequence[str], numbers: Sequence[int] = ()) -> dict[str, Any]:
    """Return the JSON object.

    Args:
        found: the images.
        names: of the classes.
        numbers: their ids; empty: from 1.

    >>> one = Located("a/b.jpg", (4, 8), np.array([[0, 1, 2, 4]]), np.array([1]), np.array([0.5]))
    >>> coco_object([one], ("cat", "dog"))["annotations"]
    [{'id': 1, 'image_id': 1, 'category_id': 2, 'bbox': [1.0, 0.0, 3.0, 2.0], 'area': 6.0, 'iscrowd': 0, 'score': 0.5}]
    """
    numbers = numbers or range(1, len(names) + 1)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for place, one in enumerate(found, start=1):
        number = place if one.number is None else one.number
        height, width = one.sides
        images.append({"id": number, "file_name": os.path.basename(one.name), "height": height, "width": width})
        for box, label, score in zip(one.boxes.tolist(), one.labels.tolist(), one.scores.tolist(), strict=True):
            top, left, bottom, right = (float(value) for value in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": numbers[label],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    categories = [{"id": number, "name": name} for number, name in zip(numbers, names, strict=True)]
    return {"images": images, "categories": categories, "annotations": annotations}


def write_coco(path: Path, found: dict[str, Any]) -> None:
    """Write the object of :func:`coco_object`.

    Raises:
        RunError: it cannot be written.
    """
    try:
        write_whole(path, json.dumps(found))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
