"""Per-channel mean and standard deviation of x / 255, for normalization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_jax.data.records import Records, gather, in_memory
from resnet_jax.errors import UsageError

SAMPLE = 4096
CHUNK = 256
"""Images counted at a time; bounds the memory of the count."""


def channel_stats(records: Records, *, max_examples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Count pixel values exactly and take mean and population standard deviation in float64.

    Args:
        records: the training images, and only those: others would leak.
        max_examples: use at most so many, evenly spaced; None for all in memory, or 4,096 of others.

    Returns:
        Mean and standard deviation, float64 (C,). Pixels count alike, whatever their image's size. A constant
        channel gets deviation 1, so that normalization gives 0 for it and not 0 / 0.

    >>> from resnet_jax.data.records import ArrayRecords
    >>> mean, std = channel_stats(ArrayRecords(np.array([[[0]], [[255]]], np.uint8), np.array([0, 1])))
    >>> mean.tolist(), std.tolist()
    ([0.5], [0.5])
    """
    stored = in_memory(records)
    limit = max_examples or (len(records) if stored else SAMPLE)
    count = min(limit, len(records))
    indices = np.arange(count) * len(records) // count
    histogram = np.zeros((records.image(0).shape[-1], 256), np.int64)
    for start in range(0, count, CHUNK):
        chosen = indices[start : start + CHUNK]
        images = gather(records, chosen) if stored else None
        for image in (records.image(int(i)) for i in chosen) if images is None else [images]:
            for channel, counts in enumerate(histogram):
                counts += np.bincount(image[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    pixels = histogram.sum(axis=1)
    mean = histogram @ values / pixels
    variance = (histogram * (values - mean[:, None]) ** 2).sum(axis=1) / pixels
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)


def check_normalization(
    mean: Sequence[float], std: Sequence[float], *, channels: int | None = None, name: str = "data."
) -> None:
    """Refuse numbers that are not mean and deviation of pixels between 0 and 1; empty means "not given".

    Args:
        mean: of x / 255, per channel.
        std: of x / 255, per channel.
        channels: how many there must be, if any is given; None: as many of the one as of the other.
        name: what comes before ``mean`` and ``std`` where the user gives them, for the message.

    Raises:
        UsageError: with the values over 255 where that is what they look like.

    >>> check_normalization([0.5], [0.25], channels=1)
    """
    if len(mean) != len(std) or (channels is not None and len(mean) not in (0, channels)):
        wanted = "the same number of channels" if channels is None else f"one value a channel, {channels}"
        raise UsageError(f"{name}mean and {name}std must have {wanted}; got {tuple(mean)} and {tuple(std)}")
    if all(0 <= m <= 1 for m in mean) and all(0 < s <= 1 for s in std):
        return
    said = (
        f"{name}mean and {name}std are those of x / 255: {name}mean must be in [0, 1] and {name}std must be positive "
        f"and at most 1, got {tuple(mean)} and {tuple(std)}"
    )
    if all(0 <= m <= 255 for m in mean) and all(0 < s <= 255 for s in std):
        over = [" ".join(f"{value / 255:.4g}" for value in values) for values in (mean, std)]
        said += f". If these are on the scale of 0 to 255: {name}mean {over[0]} and {name}std {over[1]}"
    raise UsageError(said)
