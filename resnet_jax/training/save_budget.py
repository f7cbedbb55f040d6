"""How much time saving may take: a run whose saves cost too much makes fewer of them."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds that may be spent regardless of the share: a short run saves as often as requested.
FREE_SECONDS = 5.0


class SaveBudget:
    """The seconds that saving may block the loop, which accrue with the time that passes.

    Args:
        share: fraction of the time; 1 for no limit.
        clock: returns the time in seconds.

    >>> now = [0.0]
    >>> budget = SaveBudget(0.05, lambda: now[0])
    >>> budget.spend(6.0), budget.allows()  # one second more than is free
    (None, False)
    >>> now[0] = 20.0
    >>> budget.allows()
    True
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._clock = share, clock
        self._credit, self._at = FREE_SECONDS, clock()

    def allows(self, seconds: float = 0.0) -> bool:
        """Return whether a save that would wait this long for the previous one is allowed."""
        self._earn()
        return self._share >= 1 or self._credit >= seconds

    def spend(self, seconds: float) -> None:
        """Deduct what a save has cost."""
        self._earn()
        self._credit -= seconds

    def _earn(self) -> None:
        now = self._clock()
        self._credit = min(self._credit + self._share * (now - self._at), FREE_SECONDS)
        self._at = now


class Interval:
    """The actual number of steps between two saves.

    Args:
        step: the step that the session starts from.

    Attributes:
        changes: how often it was lengthened, or restored to the requested value.

    >>> interval = Interval(0)
    >>> interval.saved(5), interval.left_out(), interval.saved(15), interval.saved(20)
    (None, None, 10, 5)
    """

    def __init__(self, step: int) -> None:
        self._last, self._left_out, self._is_longer, self.changes = step, 0, False, 0

    def left_out(self) -> None:
        """Record that a save was due and was skipped."""
        self._left_out += 1

    def saved(self, step: int) -> int | None:
        """Record a save; return the number of steps since the previous one if it has changed."""
        steps, is_longer = step - self._last, self._left_out > 0
        changed = is_longer != self._is_longer
        self._last, self._left_out, self._is_longer = step, 0, is_longer
        self.changes += changed
        return steps if changed else None
