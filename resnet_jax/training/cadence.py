"""How often something happens in a run: every so many steps, epochs or share of it, or every so many minutes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

from resnet_jax.errors import UsageError
from resnet_jax.training.duration import Duration, parse_duration


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How often something happens. One of the two is None.

    Attributes:
        period: steps between two times, 1 or more; it need not be whole: the k-th time is after step k * period,
            rounded (a half goes up).
        seconds: on the clock between two times, positive.

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
        """Return the cadence of a duration; less than a step is a step.

        Raises:
            UsageError: it cannot be read.
        """
        length = parse_duration(length) if isinstance(length, str) else length
        if length.seconds is not None:
            return cls(seconds=length.seconds)
        return cls(period=max(length.exact_steps(steps_per_epoch, total_steps), 1.0))

    def is_due(self, step: int) -> bool:
        """Return whether it is due after ``step`` steps; never by the clock, for which see :class:`Ticker`."""
        if self.period is None or step < 1:
            return False
        return self._at(round(step / self.period)) == step

    def after(self, step: int) -> int | None:
        """Return the first step after ``step`` at which it is due; None by the clock."""
        if self.period is None:
            return None
        number = max(math.floor(step / self.period) - 1, 1)
        while (due := self._at(number)) <= step:
            number += 1
        return due

    def before(self, step: int) -> int:
        """Return the last step before ``step`` at which it is due; 0 if there is none, and by the clock.

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
    """Says when a cadence is due, from now on.

    Args:
        cadence: how often; a number is so many steps.
        clock: seconds.
    """

    def __init__(self, cadence: Cadence | int, clock: Callable[[], float] = time.monotonic) -> None:
        self._cadence = Cadence(period=cadence) if isinstance(cadence, int) else cadence
        self._clock, self._last = clock, clock()

    def is_due(self, step: int) -> bool:
        """Return whether it is due after ``step``; by the clock, the time to the next one begins then."""
        if self._cadence.seconds is None:
            return self._cadence.is_due(step)
        now = self._clock()
        if now - self._last < self._cadence.seconds:
            return False
        self._last = now
        return True
