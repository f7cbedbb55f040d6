"""Detections of an evaluation in pixels of the images as stored, as a JSON object in COCO format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from resnet_jax.data.boxes import NO_BOX
from resnet_jax.data.records import Records, Subset
from resnet_jax.errors import UsageError
from resnet_jax.report.coco_json import Located, coco_object
from resnet_jax.runs.trained import TrainedRun, class_names_of


def coco_of(
    trained: TrainedRun, rows: Mapping[str, np.ndarray], records: Records, skipped: Collection[int] = ()
) -> dict[str, Any]:
    """Return the detections that an evaluation kept.

    Args:
        trained: the network.
        rows: rows of the evaluation, every example once, without skipped ones.
        records: the evaluated examples, as stored; their images are read again for their sizes.
        skipped: indices of the unreadable examples.

    Raises:
        UsageError: if its task does not find boxes.
    """
    if "found_boxes" not in rows:
        raise UsageError(f"{trained.path} is of task.kind {trained.task.kind}, which finds no boxes to write")
    places = [index for index in range(len(records)) if index not in set(skipped)]
    names, found = class_names_of(trained), []
    for row, index in enumerate(places):
        height, width = records[index]["image"].shape[:2]
        there = rows["found_labels"][row] != NO_BOX
        boxes = trained.geometry.boxes_as_stored(rows["found_boxes"][row][there], (height, width))
        labels, scores = (rows[f"found_{name}"][row][there] for name in ("labels", "scores"))
        name, number = records.describe(index), _number(records, index)
        found.append(Located(name, (height, width), boxes, labels, scores, number))
    numbers = getattr(_innermost(records, 0)[0], "category_ids", ())
    return coco_object(found, names, numbers if len(numbers) == len(names) else ())


def _innermost(records: Any, index: int) -> tuple[Any, int]:
    """Return the source that records are a part or another form of, and the position of an example in it."""
    while True:
        if isinstance(records, Subset):
            records, index = records.records, int(records.indices[index])
        elif (inner := getattr(records, "records", None)) is not None:
            records = inner
        else:
            return records, index


def _number(records: Records, index: int) -> int | None:
    source, place = _innermost(records, index)
    ids = getattr(source, "ids", ())
    return ids[place] if ids else None
