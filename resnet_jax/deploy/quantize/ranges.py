"""From the values of a tensor on some images to the range that 256 steps cover."""

from __future__ import annotations

import dataclasses
from typing import Literal, assert_never

import numpy as np

Clipping = Literal["minmax", "percentile", "mse", "entropy"]
Method = Literal[Clipping, "averaged"]
BINS = 2048
"""Bins in the histogram of a tensor."""
PERCENTILE = 99.99
"""Percentage of magnitudes that method ``percentile`` keeps."""
LEVELS = 256


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that an 8-bit tensor can take: 256 steps from ``low`` to ``high``, which include exactly 0.

    >>> Range(0.0, 2.55).scale_and_zero()[1], Range(-1.0, 3.0).scale_and_zero()[1]
    (0, 64)
    """

    low: float
    high: float

    def scale_and_zero(self) -> tuple[float, int]:
        """Return the size of a step, and the step that represents 0."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if high == low:
            return 1.0, 0
        scale = float(np.float32((high - low) / (LEVELS - 1)))
        return scale, int(np.clip(np.rint(-low / scale), 0, LEVELS - 1))

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Return values rounded to what 8 bits can represent."""
        scale, zero = self.scale_and_zero()
        return (np.clip(np.rint(values / scale) + zero, 0, LEVELS - 1) - zero) * scale


@dataclasses.dataclass
class Histogram:
    """A histogram of a tensor's values, with bins of equal width.

    Attributes:
        low: lower end of the first bin; the smallest value.
        high: upper end of the last bin; the largest value.
        counts: (BINS,).
    """

    low: float
    high: float
    counts: np.ndarray

    @classmethod
    def between(cls, low: float, high: float) -> Histogram:
        """Return an empty histogram."""
        return cls(low, high, np.zeros(BINS, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Count values."""
        if self.high > self.low:
            self.counts += np.histogram(values, bins=BINS, range=(self.low, self.high))[0]

    @property
    def middles(self) -> np.ndarray:
        """Centers of the bins."""
        edges = np.linspace(self.low, self.high, BINS + 1)
        return (edges[1:] + edges[:-1]) / 2


def range_of(histogram: Histogram, method: Clipping) -> Range:
    """Choose the range of a tensor.

    ``minmax`` covers all values. ``percentile`` covers all but the largest 0.01 % of magnitudes. ``mse`` tries 100
    fractions of the ``minmax`` range and takes the one with the least mean squared error. ``entropy`` takes the one
    whose quantized distribution has the least Kullback-Leibler divergence from the clipped one (Migacz 2017, TensorRT).
    """
    whole = Range(histogram.low, histogram.high)
    if method == "minmax" or not histogram.counts.sum():
        return whole
    match method:
        case "percentile":
            return _clipped(whole, _percentile(histogram))
        case "mse":
            return _clipped(whole, _least(histogram, _squared_error))
        case "entropy":
            return _clipped(whole, _least(histogram, _divergence))
        case _:
            assert_never(method)


def _clipped(whole: Range, most: float) -> Range:
    return Range(max(whole.low, -most), min(whole.high, most))


def _percentile(histogram: Histogram) -> float:
    magnitudes = np.abs(histogram.middles)
    order = np.argsort(magnitudes)
    total = np.cumsum(histogram.counts[order])
    place = int(np.searchsorted(total, total[-1] * PERCENTILE / 100))
    width = (histogram.high - histogram.low) / BINS
    return float(magnitudes[order[min(place, BINS - 1)]] + width / 2)


def _least(histogram: Histogram, error) -> float:
    """Return the largest kept magnitude that minimizes ``error``."""
    largest = max(abs(histogram.low), abs(histogram.high))
    whole = Range(histogram.low, histogram.high)
    kept = largest * np.linspace(0.01, 1.0, 100)
    return float(kept[int(np.argmin([error(histogram, _clipped(whole, most)) for most in kept]))])


def _squared_error(histogram: Histogram, range_: Range) -> float:
    middles = histogram.middles
    return float((histogram.counts * (range_.rounded(middles) - middles) ** 2).sum())


def _divergence(histogram: Histogram, range_: Range) -> float:
    """Divergence from the clipped distribution of its version in 256 steps, spread over the bins that were not empty.

    The bins at 0 are left out: after a ReLU, half of all values are exactly 0, which 8 bits represent exactly.
    """
    middles, counts = histogram.middles, histogram.counts.astype(np.float64)
    counts = np.where(np.abs(middles) <= (histogram.high - histogram.low) / BINS, 0, counts)
    inside = (middles >= range_.low) & (middles <= range_.high)
    if counts[inside].sum() == 0:
        return np.inf
    reference = np.where(inside, counts, 0)
    places = np.flatnonzero(inside)
    reference[places[0]] += counts[middles < range_.low].sum()
    reference[places[-1]] += counts[middles > range_.high].sum()
    scale, zero = range_.scale_and_zero()
    steps = (np.clip(np.rint(middles[inside] / scale) + zero, 0, LEVELS - 1)).astype(int)
    filled = counts[inside] > 0
    mass = np.bincount(steps, counts[inside], LEVELS)
    share = mass / np.maximum(np.bincount(steps, filled, LEVELS), 1)
    candidate = np.where(filled, share[steps], 0)
    p, q = reference[inside] / reference.sum(), candidate / candidate.sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())
