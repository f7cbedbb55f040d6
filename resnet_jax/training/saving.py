"""What the loop keeps of its states: when it saves, what saving may cost, and what a save that fails does.

Nothing of it changes a number: a state that is not saved now is saved later or not at all, and trained on alike.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from resnet_jax.errors import RunError
from resnet_jax.runtime import processes
from resnet_jax.training.cadence import Ticker
from resnet_jax.training.checkpoint_writer import SaveError
from resnet_jax.training.early_stopping import Mode
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.manifest import Score
from resnet_jax.training.members import chosen, copied, is_population, restore, save, updates_done
from resnet_jax.training.plan import Plan
from resnet_jax.training.progress import Progress, Reporting
from resnet_jax.training.save_budget import Interval, SaveBudget
from resnet_jax.training.session import Ending, Session
from resnet_jax.training.state import TrainState

if TYPE_CHECKING:  # Orbax is slow to import, and the loop runs without it
    from resnet_jax.training.checkpoint import Checkpoints, Kind


@dataclasses.dataclass(frozen=True)
class _Best:
    """A state to be saved as ``best``; of a population there is no one score."""

    state: TrainState
    progress: Progress
    score: Score | None


class Kept:
    """States that are kept: checkpoints, of a population the members that have stopped and the best of each.

    A new best state is saved with ``last`` if that is due at the same step, which costs nothing more, and else alone.
    Where saving has cost too much already, a copy of it stays on the devices and is saved with the next ``last``.

    Args:
        plan: of the run.
        checkpoints: where to; None for nowhere.
        state: as the session finds it.
        progress: likewise.
        task: its headline metric decides which is the best.
        clock: seconds.
    """

    def __init__(
        self,
        plan: Plan,
        checkpoints: Checkpoints | None,
        state: TrainState,
        progress: Progress,
        task: Reporting,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checkpoints, self._population, self._saving = checkpoints, is_population(state), plan.saving
        self._headline = task.headline
        self._mode: Mode = (None if plan.early_stopping is None else plan.early_stopping.mode) or task.mode
        self._ticker = None if self._saving.every is None else Ticker(self._saving.every)
        self._clock, self._budget = clock, SaveBudget(self._saving.share, clock)
        self._interval = Interval(updates_done(state))
        self._failing, self._is_tried_again = "", False
        self._keeps_best = self._saving.best and checkpoints is not None
        self._found: _Best | None = None
        self._held: _Best | None = None
        self._scores: list[Score] = []
        self._best: TrainState | None = None
        self._stopped: TrainState | None = None
        if self._population and any(member.finished == "early stopping" for member in progress.members):
            self._stopped = copied(state)
        if self._keeps_best and checkpoints is not None:
            if self._population and checkpoints.steps("best"):
                self._best = restore(checkpoints, "best", state)[0]
            elif self._saving.keep_best > 1:
                self._scores = [entry.score for entry in checkpoints.scores() if entry.score is not None]

    @property
    def by_clock(self) -> bool:
        """Whether the clock says when to save, which is not the same in all processes."""
        return self._saving.every is not None and self._saving.every.seconds is not None

    def is_due(self, step: int, *, validates: bool) -> bool:
        """Return whether the state is saved after ``step``: it is time, and saving has not cost too much.

        By the clock it is this process's own answer; else the same in all of them.

        Raises:
            RunError: a save before has failed, and the plan says to stop then.
        """
        if self._checkpoints is None:
            return False
        if processes.count() == 1 and (failure := self._checkpoints.take_failure()) is not None:
            self._failed(failure)
        if not (validates if self._ticker is None else self._ticker.is_due(step)):
            return False
        if self._can_afford(together=not self.by_clock):
            return True
        self._interval.left_out()
        return False

    def update(self, ending: Ending, state: TrainState, session: Session, results: Sequence[Evaluation] | None) -> None:
        """Keep the members that stop here, and note whether the state is one of the best.

        Args:
            ending: what the boundary brought.
            state: after it.
            session: of the run.
            results: of the validation, if there was one.
        """
        if self._population and ending.stopped:
            self._stopped = copied(state) if self._stopped is None else chosen(ending.stopped, state, self._stopped)
        if not self._keeps_best or results is None:
            return
        if self._population:
            if ending.improved:
                best = copied(state) if self._best is None else chosen(ending.improved, state, self._best)
                self._best = best.replace(step=copied(state.step))
                self._found = _Best(self._best, session.progress, None)
            return
        score = Score(self._headline, float(results[0].metrics[self._headline]), self._mode)
        if ending.improved or self._is_among_the_best(score):
            self._scores = sorted([*self._scores, score], key=lambda one: -one.rank)[: self._saving.keep_best]
            self._found = _Best(state, session.progress, score)

    def save(self, state: TrainState, session: Session, *, due: bool, final: bool = False) -> None:
        """Save what there is to save.

        Args:
            state: after the step.
            session: of the run.
            due: whether it is time for a checkpoint to resume from.
            final: of the run or the session: it is made, and waited for, whatever it costs.

        Raises:
            RunError: a save has failed, and the plan says to stop then, or it is the final one.
        """
        found, self._found = self._found, None
        if self._checkpoints is None or not (due or final or found is not None):
            return
        began = self._clock()
        flush = self._checkpoints.flush
        before = self._try(flush)
        if before is not None and not final:  # with the state of now, that of before is not missed
            self._failed(before)
        is_well, written = self._is_tried_again and before is None, []
        if due or final:
            held, self._held = self._held, None
            written += [self._write("best", one) for one in (held, found if self._population else None) if one]
            score = None if found is None else found.score
            written.append(self._write("last", _Best(self.result(state, session), session.progress, score)))
            self._tell(self._interval.saved(updates_done(state)))
        elif found is not None and self._can_afford():
            written.append(self._write("best", found))
        elif found is not None:
            self._hold(found)
        if final:
            written.append(self._try(flush))
        self._budget.spend(self._clock() - began)
        for failure in written:
            if failure is not None and final:
                raise failure
            if failure is not None:
                self._failed(failure)
        if is_well and self._failing:
            self._failing = ""
            self._say("Checkpoints are written again")
        self._is_tried_again = bool(written) and not any(written)

    def result(self, state: TrainState, session: Session) -> TrainState:
        """Return the state with every member that stopped early as it was then."""
        return state if self._stopped is None else chosen(session.stopped, self._stopped, state)

    def _can_afford(self, *, together: bool = True) -> bool:
        """Return whether saving has not taken too much of the time, and would not now; together: of all processes."""
        assert self._checkpoints is not None
        allowed = self._budget.allows(self._checkpoints.seconds_left)
        return processes.from_main(allowed) if together else allowed

    def _is_among_the_best(self, score: Score) -> bool:
        """Return whether a validation that is not the best so far is among those that are kept besides."""
        if self._saving.keep_best == 1 or not score.is_finite:
            return False
        return len(self._scores) < self._saving.keep_best or score.beats(self._scores[-1])

    def _hold(self, found: _Best) -> None:
        """Keep a copy for the next save; of several the best."""
        if self._held is not None and self._held.score and found.score and not found.score.beats(self._held.score):
            return
        self._held = None  # its memory first
        state = found.state if self._population else copied(found.state)
        self._held = dataclasses.replace(found, state=state)

    def _write(self, kind: Kind, what: _Best) -> RunError | None:
        assert self._checkpoints is not None
        checkpoints = self._checkpoints
        return self._try(lambda: save(checkpoints, kind, what.state, what.progress, what.score))

    def _try(self, what: Callable[[], None]) -> RunError | None:
        try:
            what()
        except RunError as error:
            return error
        return None

    def _failed(self, failure: RunError) -> None:
        """Go on without the checkpoint, and say so once for each reason, or stop.

        Raises:
            RunError: the plan says to stop.
        """
        if self._saving.on_failure == "stop":
            raise failure
        self._is_tried_again = False
        what = failure.what if isinstance(failure, SaveError) else str(failure)
        reason = failure.reason if isinstance(failure, SaveError) else what
        if reason != self._failing:
            self._failing = reason
            self._say(f"warning: {what}. Training goes on (train.on_save_failure), and it is tried again")

    def _tell(self, steps: int | None) -> None:
        """Log that the interval has become longer or is as it was asked for again; say so the first time."""
        if steps is None or self._checkpoints is None:
            return
        self._checkpoints.events.add("interval", steps=steps)
        if self._interval.changes == 1:
            self._say(
                f"Saving takes more than {self._saving.share:.0%} of the time (train.save_share): the state is saved "
                f"after about {steps:,} steps from now on"
            )

    def _say(self, text: str) -> None:
        if self._checkpoints is not None and processes.is_main():
            self._checkpoints.warn(text)
