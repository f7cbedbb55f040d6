"""What a search may still do: trials and time, the latter over all its sessions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass
class Allowance:
    """The trials and the time of a search.

    Attributes:
        trials: maximum number of trials in all; None for no limit.
        seconds: maximum wall-clock time over all sessions; None for no limit.
        spent_before: seconds of earlier sessions.
        needed: seconds that a full-length trial takes, if known.
        clock: returns the time in seconds.
        waves_after: number of full-length trainings after the trials, for which time is reserved.

    >>> now = [100.0]
    >>> allowed = Allowance(trials=None, seconds=60.0, spent_before=30.0, clock=lambda: now[0])
    >>> now[0] = 110.0
    >>> allowed.spent, allowed.may_begin(5), allowed.is_over
    (40.0, True, False)
    >>> allowed.needed = 30.0
    >>> allowed.may_begin(5)
    False
    """

    trials: int | None = None
    seconds: float | None = None
    spent_before: float = 0.0
    needed: float = 0.0
    clock: Callable[[], float] = time.monotonic
    waves_after: int = 0

    def __post_init__(self) -> None:
        """Start the clock."""
        self._began = self.clock()

    @property
    def spent(self) -> float:
        """Seconds over all sessions."""
        return self.spent_before + self.clock() - self._began

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.seconds is not None and self.spent >= self.seconds

    def may_begin(self, begun: int) -> bool:
        """Return whether another trial may begin after ``begun`` ones; none may that would not finish in time."""
        if self.trials is not None and begun >= self.trials:
            return False
        return self.seconds is None or (
            not self.is_over and self.spent + (1 + self.waves_after) * self.needed <= self.seconds
        )
