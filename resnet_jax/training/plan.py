"""How long a run is and what is done on the way: plain values, decided before it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

from resnet_jax.errors import UsageError
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.spikes import Spikes


@dataclasses.dataclass(frozen=True)
class Reject:
    """What happens when an update is rejected because something in it was not finite.

    Attributes:
        then: ``stop`` raises an error that says what to check; ``record`` records that this member has diverged, and
            continues with the others.
        tolerate: number of consecutive rejected updates that are only reported; each leaves the state unchanged.
    """

    then: Literal["stop", "record"] = "stop"
    tolerate: int = 0

    def __post_init__(self) -> None:
        if self.tolerate < 0:
            raise UsageError(f"0 or more rejected updates in a row can be tolerated, got {self.tolerate}")


@dataclasses.dataclass(frozen=True)
class Saving:
    """What is saved, and how often. The end of a run, and a run that is interrupted, are always saved.

    Attributes:
        every: interval between states to resume from; None: at every validation.
        best: whether the state with the best validation is kept too (of each member). In a population this takes the
            memory of one more state on the devices.
        keep_best: number of best validations whose states are kept.
        on_failure: what happens if a checkpoint cannot be written. A failure of the last one always raises an error.
        share: fraction of the time that saving may take; if it takes more, due saves are skipped. 1: no limit.
    """

    every: Cadence | None = None
    best: bool = True
    keep_best: int = 1
    on_failure: Literal["continue", "stop"] = "continue"
    share: float = 0.05


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train and what to do on the way.

    Attributes:
        total_steps: number of updates of the whole run.
        steps_per_epoch: updates per pass over the data.
        validate: interval between validations, in steps; None: every epoch. The end of the run is always validated.
        saving: what is saved.
        early_stopping: rule on the validation's headline metric; None only records the best.
        on_reject: what a rejected update does.
        spikes: what a loss spike does.
        warmup: number of updates in which the rate first rises, whose losses do not count for spikes.
        seconds: wall-clock time after which the run ends, over all its sessions; None for no limit.
    """

    total_steps: int
    steps_per_epoch: int
    validate: Cadence | None = None
    saving: Saving = Saving()
    early_stopping: EarlyStopping | None = None
    on_reject: Reject = Reject()
    spikes: Spikes = dataclasses.field(default_factory=Spikes)
    warmup: int = 0
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.validate is not None and self.validate.seconds is not None:
            raise UsageError(
                "validation goes by steps, epochs or a share of the run, not by the clock: what it decides (the best "
                "state, early stopping) would depend on the speed of the machine"
            )

    @property
    def validation(self) -> Cadence:
        """The validation cadence."""
        return self.validate or Cadence(period=self.steps_per_epoch)

    def boundary(self, step: int) -> int:
        """Return the next step after ``step`` at which something is due, which no call may cross.

        >>> plan = Plan(total_steps=10, steps_per_epoch=7, validate=Cadence(period=3))
        >>> [plan.boundary(step) for step in (0, 3, 6, 7, 9)]
        [3, 6, 7, 9, 10]
        """
        due = [(step // self.steps_per_epoch + 1) * self.steps_per_epoch, self.total_steps]
        for cadence in (self.validation, self.saving.every):
            after = None if cadence is None else cadence.after(step)
            due += [] if after is None else [after]
        return min(due)

    def back_from(self, step: int) -> int:
        """Return the last update before ``step`` followed by a validation or a save by steps; 0 if there is none.

        This does not depend on how the run was interrupted, and is no later than the best validation.

        >>> Plan(total_steps=10, steps_per_epoch=4).back_from(4), Plan(total_steps=10, steps_per_epoch=4).back_from(10)
        (0, 8)
        """
        cadences = [one for one in (self.validation, self.saving.every) if one is not None]
        return max(cadence.before(step) for cadence in cadences)

    def calls(self, start: int, most: int) -> Iterator[tuple[int, int]]:
        """Yield (updates done before, updates made) of every call from update ``start`` on, of limited length.

        >>> list(Plan(total_steps=10, steps_per_epoch=7).calls(1, 4))
        [(1, 4), (5, 2), (7, 3)]
        """
        return spans(start, self.total_steps, most, self.boundary)


def spans(start: int, stop: int, most: int, boundary: Callable[[int], int] | None) -> Iterator[tuple[int, int]]:
    """Yield (updates done before, updates made) of calls of at most ``most`` updates; none crosses a boundary."""
    while start < stop:
        end = min(start + most, stop, stop if boundary is None else boundary(start))
        yield start, end - start
        start = end
