"""Data held in memory by a Python program, in the form a run needs: opened, and recognized if passed again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from resnet_jax.data.example import Source
from resnet_jax.data.npz import load_arrays
from resnet_jax.data.records import Dataset
from resnet_jax.errors import RunError
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData, load_images
from resnet_jax.runs.directory import RunDirectory

Arrays = tuple[ArrayLike, ArrayLike] | Mapping[str, Any] | Dataset
"""Inputs and labels, a dict with the contents of an .npz file (or of ``image`` and ``label``), or an open data set."""

_LOOKED_AT = 256
"""Number of evenly spaced inputs to include in a fingerprint; all labels are included."""
_ARRAY_OF = {
    f"{field}{split}": f"{array}{split}"
    for field, array in {"image": "x", "label": "y"}.items()
    for split in ("", "_train", "_val", "_test")
}


def as_dataset(data: Arrays, *, channels: int | None = None) -> Dataset:
    """Return in-memory data as a data set.

    Args:
        data: inputs and labels.
        channels: 1 or 3, to convert images with three channels or one; None to keep them.

    Raises:
        DataError: if it cannot be examples; the message says what is expected.

    >>> len(as_dataset({"image": np.zeros((4, 8, 8), np.uint8), "label": [0, 1, 0, 1]}).splits["all"])
    4
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Mapping) and any(name in data for name in _ARRAY_OF):
        data = {_ARRAY_OF.get(name, name): values for name, values in data.items()}
    return load_arrays(data, channels=channels)


def images_of_arrays(config: RunConfig, run: RunDirectory, dataset: Dataset) -> RunData:
    """Return the images of arrays, which must be the same as before in a run that has begun.

    Raises:
        RunError: if they are different.
    """
    images = load_images(config, dataset)
    if run.data.is_file() and not run.read_data().same_as(images.card):
        raise RunError(
            f"the arrays are not those that {run.path} was trained on (see {run.data.name}): give the same ones, or "
            "another run_dir"
        )
    return images


def fingerprint(dataset: Dataset) -> str:
    """Return 8 hexadecimal digits that identify the data, from all labels and some inputs."""
    digest = hashlib.sha256("\0".join(dataset.class_names).encode())
    for split, records in dataset.splits.items():
        digest.update(f"{split} {len(records)} {records.labels.dtype}".encode())
        digest.update(np.ascontiguousarray(records.labels).tobytes())
        for index in _some(records):
            image = records[index]["image"]
            digest.update(f"{image.shape} {image.dtype}".encode() + np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:8]


def _some(records: Source) -> list[int]:
    count = min(_LOOKED_AT, len(records))
    return [index * len(records) // count for index in range(count)]
