"""95 % intervals of what was counted or averaged over a test set."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from resnet_jax.errors import UsageError

Z95 = 1.959963984540054
"""The 0.975 quantile of the normal distribution."""


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Return the score interval of a proportion; E. B. Wilson (1927), J. Amer. Statist. Assoc. 22, 209-212.

    With p = k / n it is (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). It never leaves [0, 1],
    and its width is not zero at p = 0 or 1. Without trials it is (0, 1).

    Args:
        successes: k, the number of successes.
        trials: n, the number of trials.
        z: quantile of the normal distribution; 1.96 for 95 %.

    Raises:
        UsageError: there are more successes than trials, or a negative number.
        UsageError: more successes than trials, or fewer than none.

    >>> [round(bound, 4) for bound in wilson(81, 263)]
    [0.2553, 0.3662]
    """
    if not 0 <= successes <= trials:
        raise UsageError(f"{successes} of {trials} is not a proportion")
    if trials == 0:
        return 0.0, 1.0
    share, spare = successes / trials, z * z / trials
    middle, width = share + spare / 2, z * math.sqrt(share * (1 - share) / trials + spare / (4 * trials))
    low, high = (middle - width) / (1 + spare), (middle + width) / (1 + spare)
    return (0.0 if successes == 0 else max(0.0, low)), (1.0 if successes == trials else min(1.0, high))


def bootstrap(
    statistic: Callable[[np.ndarray], float], examples: int, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of a statistic over examples resampled with replacement (Efron 1979).

    Args:
        statistic: a function from indices (examples,) to the value over these examples.
        examples: number of examples.
        draws: number of resamples.
        seed: seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, examples, examples)) for _ in range(draws)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
