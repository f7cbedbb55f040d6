"""Successive halving: after how many updates trials are compared, and which of them continue.

Asynchronous successive halving (Li et al., 2020, arXiv:1810.05934) in the form that stops what is not promoted: trials
are compared at *rungs*, after length / eta^k updates, and the best 1/eta of all trials ever measured at a rung
continue. Lanes that reach a rung together are all measured before any is judged, so the order of lanes does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

Mode: TypeAlias = Literal["max", "min"]
#: The share of the last rung.
WHOLE = 1_000_000


class Rung(NamedTuple):
    """A point at which trials are compared.

    Attributes:
        updates: number of updates of the trial.
        share: fraction of the length in millionths: the same for trials with other batch sizes, whose updates differ.
    """

    updates: int
    share: int


def rungs(length: int, eta: int, least: int = 1) -> tuple[Rung, ...]:
    """Return the points at which trials are compared, ascending; the last is the full length.

    Args:
        length: number of updates of a full trial.
        eta: 2 or more; 1 compares only at the end.
        least: number of updates before which nothing is compared, such as those of an epoch.

    >>> [rung.updates for rung in rungs(285, 3, 19)], rungs(285, 1), [rung.share for rung in rungs(90, 3, 20)]
    ([31, 95, 285], (Rung(updates=285, share=1000000),), [333333, 1000000])
    """
    found = [Rung(length, WHOLE)]
    while eta > 1 and length // eta ** len(found) >= max(least, 1):
        power = eta ** len(found)
        found.append(Rung(length // power, WHOLE // power))
    return tuple(reversed(found))


def next_rung(step: int, ends: tuple[Rung, ...]) -> Rung:
    """Return the first rung after this many updates.

    >>> next_rung(31, rungs(285, 3, 19)).updates
    95
    """
    return next(rung for rung in ends if rung.updates > step)


def rank(value: float, mode: Mode) -> float:
    """Return a number that is smaller for better values; NaN comes last.

    >>> rank(0.9, "max") < rank(0.8, "max") < rank(float("nan"), "max")
    True
    """
    if math.isnan(value):
        return math.inf
    return -value if mode == "max" else value


def kept(measured: Mapping[int, float], eta: int, mode: Mode) -> frozenset[int]:
    """Return which trials continue from a rung: the best 1/eta, at least one; the earlier one if tied.

    NaN never continues.

    Args:
        measured: number of the trial -> value at this rung, for all trials ever measured there.
        eta: one in eta continues; 1: all do.
        mode: whether larger or smaller is better.

    >>> sorted(kept({0: 0.5, 1: 0.9, 2: 0.7, 3: 0.9}, 3, "max")), sorted(kept({4: 0.1}, 3, "max"))
    ([1], [4])
    """
    order = sorted(measured, key=lambda number: (rank(measured[number], mode), number))
    some = order[: max(len(order) // eta, 1)]
    return frozenset(number for number in some if not math.isnan(measured[number]))
