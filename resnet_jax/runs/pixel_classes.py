"""Pixel labels of another source, with their classes mapped to positions of a network's outputs."""

from __future__ import annotations

import numpy as np

from resnet_jax.data.records import Dataset, Records
from resnet_jax.errors import UsageError
from resnet_jax.runs.recoded import Recoded

NO_CLASS = 255
"""Value of a pixel without a class."""


def with_pixel_classes(records: Records, dataset: Dataset, names: tuple[str, ...]) -> Records:
    """Return records of pixels whose classes are positions of the network's outputs, matched by name.

    Classes whose names are numbers are those positions.

    Raises:
        UsageError: for a class that the network does not have.
    """
    count = len(dataset.class_names)
    numbered = dataset.class_names == tuple(str(number) for number in range(count)) and count <= len(names)
    if numbered or dataset.class_names == names[:count]:
        return records
    unknown_ones = [name for name in dataset.class_names if name not in names]
    if unknown_ones:
        raise UsageError(
            f"{dataset.name} has classes of pixels that the network does not know: {', '.join(unknown_ones[:6])}; it "
            f"knows {', '.join(names[:12])}: data.class_list names the classes of masks in order"
        )
    table = np.full(256, NO_CLASS, np.uint8)
    table[:count] = [names.index(name) for name in dataset.class_names]
    return Recoded(records, "segmentation", table)
