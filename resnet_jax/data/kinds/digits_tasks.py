"""``digits_tasks``: scikit-learn's handwritten digits with three things to learn about each, for several heads.

The images are those of ``digits``, real and unchanged. The label is the digit; ``label_parity``, 0 even and 1 odd,
follows from it; ``value_thickness``, the width of the stroke in pixels, is computed from the image.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from resnet_jax.data.digits import load_digits
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source


def stroke_width(images: np.ndarray) -> np.ndarray:
    """Return the mean width of white strokes on black, in pixels: twice their area over the length of their outline.

    A bar of width w and length L has the area w L and an outline of about 2 L. The area is the sum of the brightness,
    and the outline that of the length of its gradient (the total variation), both for brightness from 0 to 1.

    Args:
        images: uint8 (N, H, W).

    Returns:
        float32 (N,).

    >>> bars = np.zeros((2, 40, 40), np.uint8)
    >>> bars[0, 5:35, 10:12], bars[1, 5:35, 10:16] = 255, 255
    >>> [f"{width:.1f}" for width in stroke_width(bars)]
    ['1.9', '5.0']
    """
    x = np.pad(images.astype(np.float64) / 255, ((0, 0), (1, 1), (1, 1)))
    down, right = x[:, 1:, :-1] - x[:, :-1, :-1], x[:, :-1, 1:] - x[:, :-1, :-1]
    outline = np.sqrt(down**2 + right**2).sum(axis=(1, 2))
    return (2 * x.sum(axis=(1, 2)) / np.maximum(outline, 1e-9)).astype(np.float32)


@register_source("digits_tasks", form="digits_tasks")
def load_digits_tasks(_location: str, reading: Reading, /) -> Dataset:
    """Load the digits as one split, ``all``."""
    digits = load_digits(reading.channels)
    records = digits.splits["all"]
    grey = load_digits(1).splits["all"].images[..., 0]  # pyright: ignore[reportAttributeAccessIssue]
    fields = {
        "label_parity": (records.labels % 2).astype(np.int32),
        "value_thickness": stroke_width(grey),
    }
    records = dataclasses.replace(records, fields=fields, name="digits_tasks")  # pyright: ignore[reportArgumentType]
    notes = ("the digits of scikit-learn; parity follows from the label, thickness is computed from the image",)
    return dataclasses.replace(digits, name="digits_tasks", splits={"all": records}, notes=notes)
