"""Which checkpoints are kept: the newest to resume from, and the best on validation as of each of those."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Sequence

from resnet_jax.errors import UsageError
from resnet_jax.training.checkpoint_folder import Entry


@dataclasses.dataclass(frozen=True)
class Keep:
    """How many checkpoints are kept.

    Attributes:
        last: number of newest checkpoints, to resume from.
        best: number of best checkpoints on validation.
    """

    last: int = 2
    best: int = 1

    def __post_init__(self) -> None:
        if self.last < 1 or self.best < 1:
            raise UsageError(f"at least one checkpoint of each kind is kept, got {self.last} last and {self.best} best")


def ranked(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries sorted, best first, the older one if tied. Those without a score come last, newest first.

    >>> from resnet_jax.training.manifest import Score
    >>> found = [Entry(1, Score("accuracy", 0.5)), Entry(2), Entry(3, Score("accuracy", 0.7)), Entry(4)]
    >>> [entry.step for entry in ranked(found)]
    [3, 1, 4, 2]
    """

    def order(entry: Entry) -> tuple[float, int]:
        scored = entry.score is not None and entry.score.is_finite
        return (-entry.score.rank, entry.step) if scored and entry.score else (math.inf, -entry.step)

    return sorted(entries, key=order)


def superfluous_last(steps: Sequence[int], keep: Keep, stale: Collection[int] = ()) -> list[int]:
    """Return the steps of superfluous ``last`` checkpoints: all but the newest, and those of an abandoned continuation.

    Args:
        steps: steps of the complete checkpoints.
        keep: how many are kept.
        stale: steps abandoned when the run went back to an earlier checkpoint.
    """
    current = sorted(step for step in steps if step not in stale)
    return sorted({*current[: -keep.last], *(step for step in steps if step in stale and current)})


def superfluous_best(
    entries: Sequence[Entry], last: Sequence[int], keep: Keep, stale: Collection[int] = ()
) -> list[int]:
    """Return the steps of superfluous ``best`` checkpoints.

    A run that resumes from an older ``last`` because the newest is damaged needs the best states as of that time; so as
    many are kept for each ``last`` there is, which mostly coincide.

    Args:
        entries: the complete checkpoints.
        last: steps of the checkpoints to resume from that are kept.
        keep: how many are kept.
        stale: as for :func:`superfluous_last`; kept as long as there is no other.

    >>> superfluous_best([Entry(1), Entry(2), Entry(4)], [3, 5], Keep())
    [1]
    """
    current = [entry for entry in entries if entry.step not in stale]
    kept = {entry.step for entry in ranked(current)[: keep.best]}
    for step in last:
        then = [entry for entry in current if entry.step <= step]
        kept |= {entry.step for entry in ranked(then)[: keep.best]}
    kept |= set() if current else {entry.step for entry in entries}
    return sorted(entry.step for entry in entries if entry.step not in kept)
