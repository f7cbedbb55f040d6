"""``digits_3d``: volumes composed of the handwritten digits included in scikit-learn; no download.

They are composed, not scanned: each of the 1,797 digits is a bar through depth whose cross-section is the digit,
shifted and rotated from slice to slice. There is one volume per digit, so training, validation and test have different
digits.
"""

from __future__ import annotations

import cv2
import numpy as np

from resnet_jax.data.decode import to_channels
from resnet_jax.data.digits import digit_records
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source

SIDE = 16
#: Number of slices of the bar; distance of its ends from the center of the volume; its rotation.
LENGTH, OFFSET, DEGREES = (6, 12), 2.5, 30.0
#: Standard deviation of the noise added everywhere, of 255.
NOISE = 12.0


def load_digits_3d(channels: int | None = None) -> Dataset:
    """Load the volumes as one split, ``all``: uint8 (1797, 16, 16, 16, channels), 10 classes."""
    digits = digit_records()
    flat = digits.images[..., 0]
    volumes = np.stack([compose(flat[index], index) for index in range(len(digits))])[..., None]
    records = ArrayRecords(to_channels(volumes, channels), digits.labels, name="digits_3d", meaning="volume")
    return Dataset("digits_3d", {"all": records}, tuple("0123456789"))


def compose(digit: np.ndarray, index: int) -> np.ndarray:
    """Return the volume of a digit (8, 8), uint8 (16, 16, 16): always the same for an index."""
    rng = np.random.Generator(np.random.Philox(index))
    length = int(rng.integers(*LENGTH, endpoint=True))
    first = int(rng.integers(0, SIDE - length, endpoint=True))
    begin, end = rng.uniform(-OFFSET, OFFSET, (2, 2))
    turns = rng.uniform(-DEGREES, DEGREES, 2) / 2
    volume = rng.normal(0, NOISE, (SIDE,) * 3)
    for place, share in enumerate(np.linspace(0, 1, length)):
        centre, middle = (1 - share) * begin + share * end + (SIDE - 1) / 2, (digit.shape[0] - 1) / 2
        matrix = cv2.getRotationMatrix2D((middle, middle), float((1 - share) * turns[0] + share * turns[1]), 1.0)
        matrix[:, 2] += centre - middle
        volume[first + place] += cv2.warpAffine(digit, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    return np.clip(np.rint(volume), 0, 255).astype(np.uint8)


@register_source("digits_3d", form="digits_3d")
def _load(_location: str, reading: Reading, /) -> Dataset:
    return load_digits_3d(reading.channels)
