"""Boxes of another source, with their classes mapped to positions of a network's outputs."""

from __future__ import annotations

import numpy as np

from resnet_jax.data.boxes import NO_BOX
from resnet_jax.data.classes import match_classes
from resnet_jax.data.records import ArrayRecords, Dataset, Records
from resnet_jax.runs.recoded import Recoded


def with_box_classes(
    records: Records, dataset: Dataset, names: tuple[str, ...], network: str
) -> tuple[Records, int, tuple[str, ...]]:
    """Return records whose boxes have the network's classes, matched by name, the number of classes, and a description.

    Args:
        records: records of the data set.
        dataset: provides the names of their classes.
        names: names of the network's outputs.
        network: the network, for messages.

    Raises:
        UsageError: if a class that has boxes is unknown to the network.
    """
    present = _present(records, len(dataset.class_names))
    matching = match_classes(dataset.class_names, names, present=present, source=dataset.name, network=network)
    table = np.full(len(dataset.class_names) + 1, NO_BOX, np.int32)  # the last, -1, is that of no box
    table[present] = matching.labels(np.array(present, np.int32))
    return Recoded(records, "box_label", table), len(present), matching.said


def _present(records: Records, classes: int) -> list[int]:
    """Return the classes that have boxes, if known without reading images; otherwise all."""
    labels = getattr(records, "box_labels", None)
    if labels is None and isinstance(records, ArrayRecords):
        labels = records.fields.get("box_label")
    if labels is None:
        return list(range(classes))
    return np.unique(labels[labels != NO_BOX]).tolist()
