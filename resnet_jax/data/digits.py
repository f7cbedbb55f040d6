"""The 1,797 handwritten digits included in scikit-learn: 8x8 gray, 10 classes, no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (test part), UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.decode import to_channels
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source


def load_digits(channels: int | None = None) -> Dataset:
    """Load the digits as one split, ``all``."""
    return Dataset("digits", {"all": digit_records(channels)}, tuple("0123456789"))


def digit_records(channels: int | None = None) -> ArrayRecords:
    """Return the digits; the stored 0..16 become 0..255 (times 255 / 16, rounded)."""
    pixels, labels = _read()
    images = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return ArrayRecords(to_channels(images, channels), labels, name="digits")


@register_source("digits", form="digits")
def _load(_location: str, reading: Reading, /) -> Dataset:
    return load_digits(reading.channels)


def _read() -> tuple[np.ndarray, np.ndarray]:
    # Read the file directly: importing scikit-learn for its load_digits takes seconds.
    package = importlib.util.find_spec("sklearn")
    folder = package.submodule_search_locations[0] if package and package.submodule_search_locations else ""
    file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn import datasets

    bunch: Any = datasets.load_digits()
    return bunch.data, bunch.target
