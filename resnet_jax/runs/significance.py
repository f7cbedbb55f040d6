"""Whether two means over seeds differ by more than seeds do: Student's t-test, paired or Welch's.

Student (1908), "The probable error of a mean"; Welch (1947), "The generalization of Student's problem when several
different population variances are involved", with the degrees of freedom of Satterthwaite (1946).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

#: Share of such intervals that contain the true difference.
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of two means, the first minus the second.

    Attributes:
        mean: the difference.
        low: lower end of its 95% interval.
        high: upper end of the interval.
        p: probability of a difference at least as large, in either direction, between equal means.
        seeds: numbers of seeds of the first and the second; for pairs, both are the number of pairs.
        how: ``paired`` or ``welch``.
        freedom: degrees of freedom.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[int, int]
    how: Literal["paired", "welch"]
    freedom: float

    @property
    def spreadless(self) -> bool:
        """Whether the values do not vary at all over seeds, so that there is nothing to judge the difference by."""
        return math.isnan(self.p)

    @property
    def distinguishable(self) -> bool:
        """Whether 0 is outside the interval."""
        return not self.spreadless and not self.low <= 0 <= self.high


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation; None if there are too few values.

    >>> mean_and_std([1.0, 3.0]), mean_and_std([1.0]), mean_and_std([])
    ((2.0, 1.4142135623730951), (1.0, None), (None, None))
    """
    if not len(values):
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare values of the same seeds, in the same order: the t-test of their differences.

    Raises:
        ValueError: if there are fewer than two pairs, or the numbers differ.

    >>> result = paired([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    >>> round(result.mean, 3), round(result.low, 3), round(result.high, 3), round(result.p, 4)
    (2.0, -0.484, 4.484, 0.0742)
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"two pairs at least, got {len(first)} values and {len(second)}")
    each = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    error = float(np.std(each, ddof=1)) / math.sqrt(len(each))
    scale = max(float(np.abs([*first, *second]).max()), 1e-300)
    return _difference(float(each.mean()), error, len(each) - 1.0, (len(each), len(each)), "paired", scale)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare values of different seeds, whose variances may differ.

    Raises:
        ValueError: if either has fewer than two values.

    >>> result = welch([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    >>> round(result.mean, 3), round(result.freedom, 3), round(result.p, 4)
    (2.0, 2.941, 0.2209)
    """
    counts = (len(first), len(second))
    if min(counts) < 2:
        raise ValueError(f"two values of each at least, got {counts[0]} and {counts[1]}")
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    below = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    freedom = sum(parts) ** 2 / below if below > 0 else sum(counts) - 2.0
    scale = max(float(np.abs([*first, *second]).max()), 1e-300)
    return _difference(float(np.mean(first) - np.mean(second)), error, freedom, counts, "welch", scale)


def _difference(
    mean: float, error: float, freedom: float, seeds: tuple[int, int], how: Literal["paired", "welch"], scale: float
) -> Difference:
    """Return a difference with the interval from its standard error; ``scale`` is the size of what was compared."""
    from scipy.special import stdtr, stdtrit  # slow to import

    if error <= 1e-12 * scale:  # equal but for rounding
        return Difference(mean, mean, mean, math.nan, seeds, how, freedom)
    reach = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error
    p = 2.0 * float(stdtr(freedom, -abs(mean) / error))
    return Difference(mean, mean - reach, mean + reach, p, seeds, how, freedom)
