"""Choose the channels to keep from their scores, per layer or globally, in numbers that are fast.

A vector register holds 8 (AVX2) or 16 (AVX-512) channels. With 16, for example, 24 channels take as long as 32. Numbers
of channels are therefore rounded to a multiple.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from resnet_jax.errors import UsageError

Scope: TypeAlias = Literal["uniform", "global"]


def choose_channels(
    scores: Sequence[np.ndarray],
    ratio: float,
    *,
    scope: Scope = "uniform",
    min_channels: int = 8,
    multiple_of: int = 8,
) -> list[np.ndarray]:
    """Return the ascending indices of the channels to keep in each layer; ties are broken by the lower index.

    Args:
        scores: scores of each layer, (channels,).
        ratio: share of the channels to remove, in [0, 1), before rounding.
        scope: ``uniform``: this share of every layer; ``global``: the channels with the smallest scores of all layers
            together.
        min_channels: minimum number of channels to keep in a layer, unless it had fewer.
        multiple_of: the number of kept channels is rounded to the nearest multiple of this (halves up), but not beyond
            the original number.

    Raises:
        UsageError: numbers are out of range.

    >>> [kept.tolist() for kept in choose_channels([np.arange(8.0), np.arange(8.0)[::-1] + 4], 0.5, multiple_of=1,
    ...     min_channels=1)]
    [[4, 5, 6, 7], [0, 1, 2, 3]]
    >>> [len(kept) for kept in choose_channels([np.arange(8.0), np.arange(8.0) + 4], 0.5, scope="global", multiple_of=2,
    ...     min_channels=2)]
    [2, 6]
    """
    if not 0 <= ratio < 1:
        raise UsageError(f"ratio must be the share of channels to remove, in [0, 1), got {ratio}")
    if min_channels < 1 or multiple_of < 1:
        raise UsageError(f"min_channels and multiple_of are 1 or more, got {min_channels} and {multiple_of}")
    if scope == "global":
        every = np.sort(np.concatenate(scores))
        threshold = every[min(round(ratio * len(every)), len(every) - 1)]
        wanted = [int(np.sum(each >= threshold)) for each in scores]
    else:
        wanted = [(1 - ratio) * len(each) for each in scores]
    return [_best(each, _rounded(count, len(each), min_channels, multiple_of)) for each, count in
            zip(scores, wanted, strict=True)]  # fmt: skip


def _rounded(count: float, channels: int, least: int, multiple: int) -> int:
    rounded = int(np.floor(count / multiple + 0.5)) * multiple
    least = -(-least // multiple) * multiple
    return min(channels, max(rounded, least))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.argsort(-scores, kind="stable")[:count])
