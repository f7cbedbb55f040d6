"""``digits_pairs``: scikit-learn's handwritten digits as pairs of an image and a signal; **composed**, no download.

``image`` is a digit, 8x8 gray; ``other`` is **another** digit of the same class, whose 64 pixels are read row by row as
a signal (64, 1). No digit is its own partner, and none is in two splits, on either side.
"""

from __future__ import annotations

import numpy as np

from resnet_jax.data.digits import load_digits
from resnet_jax.data.kinds.pairs import SHARES, paired
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.data.stratified import split_indices

SEED = 0


@register_source("digits_pairs", form="digits_pairs")
def load_digits_pairs(_location: str, reading: Reading, /) -> Dataset:
    """Compose the pairs."""
    digits = load_digits(reading.channels)
    records, names = digits.splits["all"], digits.class_names
    assert isinstance(records, ArrayRecords)
    splits = {}
    for name, part in split_indices(records.labels, SHARES, SEED).items():
        left = ArrayRecords(records.images[part], records.labels[part], name=f"digits, {name}")
        right = ArrayRecords(scanned(left.images), left.labels, name=f"rows of digits, {name}", meaning="signal")
        splits[name] = paired(left, right, left.labels, SEED, apart=True)
    note = "composed: each digit with another of its class, whose rows are written one after the other as a signal"
    return Dataset("digits_pairs", splits, names, (note,))


def scanned(images: np.ndarray) -> np.ndarray:
    """Return images (N, H, W, C) as signals of their rows in sequence, in gray, float32 (N, H * W, 1) in 0..1."""
    return (images.mean(axis=-1, dtype=np.float32) / 255).reshape(len(images), -1, 1)
