"""``digits_detection``: scikit-learn's real digits composed on canvases of 64 x 64 pixels, with a box around each.

It needs no download. Every canvas has up to six digits (one in twenty has none), enlarged to 12 to 24 pixels and hardly
overlapping, on a dim noisy background. Training, validation and test use different digits. It is composed, and labeled
as such: a set for trying out detection, not for comparing results.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from resnet_jax.data.boxes import NO_BOX
from resnet_jax.data.decode import to_channels
from resnet_jax.data.digits import load_digits
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.data.transform import resize

SIDE = 64
#: Maximum number of digits per canvas, and their sides in pixels.
MOST, SIDES = 6, (12, 24)
#: Canvases of each split, and the fraction of the digits that they are made of.
COUNTS = {"train": (1200, 0.7), "val": (100, 0.1), "test": (200, 0.2)}
#: Brightness from which a pixel is ink, of 255.
INK = 64
_TRIES, _EMPTY, _GROUND = 30, 0.05, 48


@register_source("digits_detection", form="digits_detection")
def load_digits_detection(_location: str, reading: Reading, /) -> Dataset:
    """Compose the canvases; the same every time."""
    splits = {}
    for split, (images, boxes, labels) in _composed().items():
        fields = {"boxes": boxes, "box_label": labels}
        zeros = np.zeros(len(images), np.int32)
        pixels = to_channels(images, reading.channels)
        splits[split] = ArrayRecords(pixels, zeros, f"digits_detection, split {split}", fields=fields)
    note = "composed of scikit-learn's digits; those of train, val and test are different ones"
    return Dataset("digits_detection", splits, tuple("0123456789"), (note,), kind="boxes")


@cache
def _composed() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return split -> images (N, 64, 64, 1), boxes (N, M, 4) and labels (N, M)."""
    records = load_digits(1).splits["all"]
    assert isinstance(records, ArrayRecords)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(records))
    found, start = {}, 0
    for split, (count, share) in COUNTS.items():
        mine = order[start : start + round(share * len(order))]
        start += len(mine)
        canvases = [compose(records.images[mine], records.labels[mine], rng) for _ in range(count)]
        found[split] = tuple(np.stack(part) for part in zip(*canvases, strict=True))
    return found


def compose(
    digits: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a canvas (64, 64, 1), its boxes (6, 4) and their labels (6,), padded with the label -1.

    Args:
        digits: uint8 (n, 8, 8, 1) to choose from.
        labels: their labels, (n,).
        rng: the random generator.
    """
    canvas = rng.integers(0, _GROUND, (SIDE, SIDE, 1)).astype(np.uint8)
    boxes, found = np.zeros((MOST, 4), np.float32), np.full(MOST, NO_BOX, np.int32)
    count = 0 if rng.random() < _EMPTY else int(rng.integers(1, MOST + 1))
    placed = 0
    for _ in range(_TRIES):
        if placed == count:
            break
        which, side = int(rng.integers(len(digits))), int(rng.integers(SIDES[0], SIDES[1] + 1))
        drawn = resize(digits[which], side, side)
        ink = np.argwhere(drawn[..., 0] >= INK)
        low, high = ink.min(axis=0), ink.max(axis=0) + 1
        shape = high - low
        corner = np.array([rng.integers(0, SIDE - shape[0] + 1), rng.integers(0, SIDE - shape[1] + 1)])
        box = np.concatenate([corner, corner + shape])
        if any(_touches(box, other) for other in boxes[:placed]):
            continue
        part = canvas[box[0] : box[2], box[1] : box[3]]
        np.maximum(part, drawn[low[0] : high[0], low[1] : high[1]], out=part)
        boxes[placed], found[placed] = box, labels[which]
        placed += 1
    return canvas, boxes, found


def _touches(box: np.ndarray, other: np.ndarray) -> bool:
    """Return whether boxes share more than a pixel along either side."""
    return bool((np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]) > 1).all())
