"""``digits_series``: scikit-learn's 1,797 digits as time series, their 64 pixels read row by row; no download.

These are real measurements, but not real series: neighbors in time are neighbors in a row, and rows are 8 steps apart.
"""

from __future__ import annotations

import numpy as np

from resnet_jax.data.digits import load_digits
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError


@register_source("digits_series", form="digits_series")
def load_digits_series(_location: str, reading: Reading, /) -> Dataset:
    """Load the series as one split, ``all``: float32 (64, 1) from 0 to 1.

    Raises:
        DataError: if several channels are requested.
    """
    if reading.channels not in (None, 1):
        raise DataError(f"digits_series: series of one channel, and {reading.channels} are wanted")
    digits = load_digits(1)
    images, labels = digits.splits["all"].images, digits.splits["all"].labels  # pyright: ignore[reportAttributeAccessIssue]
    series = images.reshape(len(images), 64, 1).astype(np.float32) / np.float32(255)
    return Dataset(
        "digits_series", {"all": ArrayRecords(series, labels, name="digits_series", meaning="signal")},
        digits.class_names, ("digits read row by row as series of 64 values: composed, no measured series",),
    )  # fmt: skip
