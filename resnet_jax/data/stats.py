"""Per-channel mean and standard deviation for normalization: of x / 255 for uint8, otherwise of the values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_jax.data.records import Source, gather, in_memory
from resnet_jax.data.unreadable import Unreadable, first_readable, read_or_count, unreadable_in
from resnet_jax.errors import UsageError

SAMPLE = 4096
CHUNK = 256
"""Number of images counted at a time, to bound the memory."""


def channel_stats(
    records: Source,
    *,
    max_examples: int | None = None,
    unreadable: Unreadable | None = None,
    field: str = "image",
) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and population standard deviation of the inputs per channel, in float64.

    For uint8 they are those of x / 255, counted exactly; for other dtypes those of the values themselves.

    Args:
        records: the training examples, and only those, to avoid leakage.
        max_examples: maximum number of examples to use, evenly spaced; None for all in memory, or 4,096 of others.
        unreadable: counts unreadable examples, which are left out; None to stop at one.
        field: field of the examples, the input.

    Returns:
        Mean and standard deviation, float64 (C,). All pixels have the same weight, whatever their image's size. A
        constant channel gets deviation 1, so that normalization gives 0 for it and not 0 / 0.

    >>> from resnet_jax.data.records import ArrayRecords
    >>> mean, std = channel_stats(ArrayRecords(np.array([[[0]], [[255]]], np.uint8), np.array([0, 1])))
    >>> mean.tolist(), std.tolist()
    ([0.5], [0.5])
    >>> mean, std = channel_stats(ArrayRecords(np.array([[[[2.0]]], [[[6.0]]]]), np.array([0, 1])))
    >>> mean.tolist(), std.tolist()
    ([4.0], [2.0])
    """
    stored = in_memory(records)
    limit = max_examples or (len(records) if stored else SAMPLE)
    count = min(limit, len(records))
    indices = np.arange(count) * len(records) // count
    first = first_readable(records, unreadable)[1][field]
    lost = list(unreadable_in(records)) if unreadable is not None else []
    counter = counter_for(first)
    for start in range(0, count, CHUNK):
        chosen = indices[start : start + CHUNK]
        if stored and (examples := gather(records, chosen[~np.isin(chosen, lost)])) is not None:
            if len(examples[field]):
                counter.add(examples[field])
            continue
        for index in chosen.tolist():
            example = records[index] if unreadable is None else read_or_count(records, index, unreadable)
            if example is not None:
                counter.add(example[field])
    mean, variance = counter.moments()
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)


def counter_for(inputs: np.ndarray) -> PixelCounter | MomentCounter:
    """Return a counter for inputs like these, (..., C)."""
    return PixelCounter(inputs.shape[-1]) if inputs.dtype == np.uint8 else MomentCounter(inputs.shape[-1])


class PixelCounter:
    """Frequency of each uint8 value in each channel."""

    def __init__(self, channels: int) -> None:
        self.histogram = np.zeros((channels, 256), np.int64)

    def add(self, inputs: np.ndarray) -> None:
        """Count all values of inputs (..., C)."""
        for channel, counts in enumerate(self.histogram):
            counts += np.bincount(inputs[..., channel].ravel(), minlength=256)

    def join(self, other: PixelCounter) -> None:
        """Add the counts of another."""
        self.histogram += other.histogram

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of x / 255 of every channel."""
        values = np.arange(256) / 255
        pixels = self.histogram.sum(axis=1)
        mean = self.histogram @ values / pixels
        return mean, (self.histogram * (values - mean[:, None]) ** 2).sum(axis=1) / pixels


class MomentCounter:
    """Count, mean and sum of squared deviations, combined part by part.

    T. F. Chan, G. H. Golub and R. J. LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances
    (1979).
    """

    def __init__(self, channels: int) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(channels), np.zeros(channels)

    def add(self, inputs: np.ndarray) -> None:
        """Count all values of inputs (..., C)."""
        values = inputs.reshape(-1, inputs.shape[-1]).astype(np.float64)
        mean = values.mean(axis=0)
        self._add(len(values), mean, ((values - mean) ** 2).sum(axis=0))

    def join(self, other: MomentCounter) -> None:
        """Add the counts of another."""
        if other.count:
            self._add(other.count, other.mean, other.squares)

    def _add(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        apart, total = mean - self.mean, self.count + count
        self.squares += squares + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of every channel."""
        return self.mean, self.squares / self.count


def check_normalization(
    mean: Sequence[float],
    std: Sequence[float],
    *,
    channels: int | None = None,
    name: str = "data.",
    dtype: str | None = "uint8",
) -> None:
    """Reject numbers that cannot be mean and deviation of pixels between 0 and 1; empty means "not given".

    Args:
        mean: mean of x / 255, per channel.
        std: standard deviation of x / 255, per channel.
        channels: expected number of values, if any are given; None: as many means as deviations.
        dtype: dtype of the inputs. For uint8 they are between 0 and 1, because they are of x / 255; None: not known
            yet.
        name: prefix of ``mean`` and ``std`` where the user gives them, for messages.

    Raises:
        UsageError: if they cannot be; with the values divided by 255 if that seems to be missing.

    >>> check_normalization([0.5], [0.25], channels=1)
    """
    if len(mean) != len(std) or (channels is not None and len(mean) not in (0, channels)):
        wanted = "the same number of channels" if channels is None else f"one value a channel, {channels}"
        raise UsageError(f"{name}mean and {name}std must have {wanted}; got {tuple(mean)} and {tuple(std)}")
    if dtype != "uint8":
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and all(s > 0 for s in std)):
            raise UsageError(f"{name}std must be positive and {name}mean finite, got {tuple(mean)} and {tuple(std)}")
        return
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
