"""How often something happens in a run: at an interval of steps, epochs, a share of the run, or minutes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

from resnet_jax.errors import UsageError
from resnet_jax.training.duration import Duration, parse_duration


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How often something happens. Exactly one of the two fields is None.

    Attributes:
        period: number of steps between two occurrences, 1 or more. It need not be an integer: occurrence k is after
            step k * period, rounded (half up).
        seconds: wall-clock time between two occurrences, positive.

    >>> half_epochs = Cadence.every("0.5 epochs", steps_per_epoch=7, total_steps=14)
    >>> [step for step in range(1, 15) if half_epochs.is_due(step)]
    [4, 7, 11, 14]
    >>> half_epochs.after(7)
    11
    """

    period: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.period is None) == (self.seconds is None):
            raise UsageError("a cadence is either in steps or in seconds")
        if self.period is not None and not (math.isfinite(self.period) and self.period >= 1):
            raise UsageError(f"a cadence is 1 step or more, got {self.period:g} steps")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise UsageError(f"a cadence is a positive time, got {self.seconds:g} seconds")

    @classmethod
    def every(cls, length: str | Duration, *, steps_per_epoch: int, total_steps: int) -> Cadence:
        """Return the cadence for a duration, at least one step.

        Raises:
            UsageError: if it cannot be parsed.
        """
        length = parse_duration(length) if isinstance(length, str) else length
        if length.seconds is not None:
            return cls(seconds=length.seconds)
        return cls(period=max(length.exact_steps(steps_per_epoch, total_steps), 1.0))

    def is_due(self, step: int) -> bool:
        """Return whether it is due after ``step`` steps; False for wall-clock intervals, see :class:`Ticker`."""
        if self.period is None or step < 1:
            return False
        return self._at(round(step / self.period)) == step

    def after(self, step: int) -> int | None:
        """Return the first step after ``step`` at which it is due, or None for wall-clock intervals."""
        if self.period is None:
            return None
        number = max(math.floor(step / self.period) - 1, 1)
        while (due := self._at(number)) <= step:
            number += 1
        return due

    def before(self, step: int) -> int:
        """Return the last step before ``step`` at which it is due; 0 if there is none, or for wall-clock intervals.

        >>> [Cadence(period=2.5).before(step) for step in (1, 3, 4, 6)]
        [0, 0, 3, 5]
        """
        if self.period is None:
            return 0
        number = math.floor(step / self.period) + 1
        while number > 0 and self._at(number) >= step:
            number -= 1
        return self._at(number) if number > 0 else 0

    def _at(self, number: int) -> int:
        assert self.period is not None
        return math.floor(number * self.period + 0.5)


class Ticker:
    """Reports when a cadence is due, starting now.

    Args:
        cadence: how often; a number is an interval in steps.
        clock: returns the time in seconds.
    """

    def __init__(self, cadence: Cadence | int, clock: Callable[[], float] = time.monotonic) -> None:
        self._cadence = Cadence(period=cadence) if isinstance(cadence, int) else cadence
        self._clock, self._last = clock, clock()

    def is_due(self, step: int) -> bool:
        """Return whether it is due after ``step``. For wall-clock intervals, the next interval then begins."""
        if self._cadence.seconds is None:
            return self._cadence.is_due(step)
        now = self._clock()
        if now - self._last < self._cadence.seconds:
            return False
        self._last = now
        return True
