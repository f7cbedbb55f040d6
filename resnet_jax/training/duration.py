"""Lengths of training as people state them: epochs, steps, a share of the whole run, or wall-clock time.

Recipes use three conventions: "90 epochs" (Goyal et al., 2017), "64k iterations, the rate drops at 32k and 48k" (He et
al., 2016) and "30% of the run" (Smith, 2017). A `Duration` keeps the original form; `Duration.steps` converts it to
optimizer steps once the size of the data set and the batch size are known.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, assert_never, get_args

from resnet_jax.errors import UsageError

Unit = Literal["epochs", "steps", "fraction", "seconds", "minutes", "hours"]

_FORMS = "write '5 epochs', '32000 steps' or '50%' (of the whole run)"
_TIME_FORMS = f"{_FORMS}, or '10 min' where the clock may decide"
_PATTERN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z]+|%)\s*", re.IGNORECASE)
_UNITS: dict[str, Unit] = {
    **dict.fromkeys(("epochs", "epoch", "ep"), "epochs"),
    **dict.fromkeys(("steps", "step", "st"), "steps"),
    "%": "fraction",
    **dict.fromkeys(("seconds", "second", "sec", "s"), "seconds"),
    **dict.fromkeys(("minutes", "minute", "min"), "minutes"),
    **dict.fromkeys(("hours", "hour", "h"), "hours"),
}
_SECONDS: dict[Unit, float] = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}


@dataclass(frozen=True)
class Duration:
    """A length of training.

    Attributes:
        amount: number of ``unit``; finite and not negative. Steps are integers; a fraction is in [0, 1].
        unit: "epochs" (passes over the training set), "steps" (optimizer updates), "fraction" (of the whole run), or
            "seconds", "minutes" or "hours" of wall-clock time.

    Raises:
        UsageError: if ``amount`` is negative, not finite, or not valid for ``unit``.
    """

    amount: float
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise UsageError(f"unknown unit of duration {self.unit!r}: {_FORMS}")
        if not math.isfinite(self.amount) or self.amount < 0:
            raise UsageError(f"a duration is finite and not negative, got {self.amount:g} {self.unit}: {_FORMS}")
        if self.unit == "steps" and self.amount != int(self.amount):
            raise UsageError(f"steps are whole, got {self.amount:g} steps: {_FORMS}")
        if self.unit == "fraction" and self.amount > 1:
            raise UsageError(f"a share of the run is at most 100%, got {self.amount:.0%}: {_FORMS}")

    def steps(self, steps_per_epoch: int, total_steps: int | None = None) -> int:
        """Convert to optimizer steps, rounded to the nearest integer (half up).

        Args:
            steps_per_epoch: optimizer steps in one pass over the training set.
            total_steps: optimizer steps of the whole run; None while it is still being computed.

        Returns:
            The number of steps, >= 0. A number of steps is returned unchanged, even beyond ``total_steps``.

        Raises:
            UsageError: for a fraction of a run of unknown length, or wall-clock time.

        >>> Duration(2.5, "epochs").steps(steps_per_epoch=391)
        978
        >>> Duration(0.29, "fraction").steps(steps_per_epoch=10, total_steps=100)
        29
        """
        return math.floor(self.exact_steps(steps_per_epoch, total_steps) + 0.5)

    def exact_steps(self, steps_per_epoch: int, total_steps: int | None = None) -> float:
        """Convert to optimizer steps without rounding; otherwise as :meth:`steps`."""
        match self.unit:
            case "steps":
                return self.amount
            case "epochs":
                return self.amount * steps_per_epoch
            case "fraction":
                if total_steps is None:
                    raise UsageError(
                        f"{self.amount:.0%} of the run cannot say how long the run is: use epochs or steps"
                    )
                return self.amount * total_steps
            case "seconds" | "minutes" | "hours":
                raise UsageError(f"{self} on the clock cannot be said in steps: {_FORMS}")
            case _:
                assert_never(self.unit)

    @property
    def seconds(self) -> float | None:
        """Seconds of wall-clock time, or None for a length in steps, epochs or a share.

        >>> Duration(10, "minutes").seconds
        600.0
        """
        return self.amount * _SECONDS[self.unit] if self.unit in _SECONDS else None

    def __str__(self) -> str:
        """Return the text that :func:`parse_duration` parses back to the same value.

        >>> str(Duration(15, "epochs")), str(Duration(0.05, "fraction"))
        ('15 epochs', '5%')
        """
        return f"{self.amount * 100:.12g}%" if self.unit == "fraction" else f"{self.amount:.15g} {self.unit}"


def parse_duration(text: str) -> Duration:
    """Parse "5 epochs" (also epoch, ep), "32000 steps" (step, st), "50%" (of the whole run), or "10 min" (hours, h,
    seconds, sec, s).

    Case and spaces do not matter. A bare number is rejected, because epochs and steps differ by orders of magnitude.

    Raises:
        UsageError: for anything else, a negative amount, a non-integer number of steps, or more than 100%.

    >>> parse_duration("5ep")
    Duration(amount=5.0, unit='epochs')
    >>> parse_duration("50%")
    Duration(amount=0.5, unit='fraction')
    """
    match = _PATTERN.fullmatch(str(text))
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"cannot read the duration {text!r}: {_TIME_FORMS}")
    amount = float(match[1])
    return Duration(amount / 100 if unit == "fraction" else amount, unit)
