"""Which states the loop saves: when, at what cost, and what happens if a save fails.

None of this changes a number: a state that is not saved now is saved later or not at all, and training continues alike.
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
    """A state to be saved as ``best``; a population has no single score."""

    state: TrainState
    progress: Progress
    score: Score | None


class Kept:
    """The saved states: checkpoints, and in a population the members that have stopped and the best state of each.

    A new best state is saved together with ``last`` if that is due at the same step, at no extra cost, and alone
    otherwise. If saving has already cost too much, a copy stays on the devices and is saved with the next ``last``.

    Args:
        plan: the plan of the run.
        checkpoints: where to save; None to save nothing.
        state: the state at the start of the session.
        progress: the progress at the start of the session.
        task: its headline metric decides which state is the best.
        clock: returns the time in seconds.
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
        """Whether saves follow the clock, which differs between processes."""
        return self._saving.every is not None and self._saving.every.seconds is not None

    def is_due(self, step: int, *, validates: bool) -> bool:
        """Return whether to save the state after ``step``: it is due, and saving has not cost too much.

        For wall-clock intervals this is this process's own answer; otherwise it is the same in all processes.

        Raises:
            RunError: if an earlier save failed, and the plan says to stop then.
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
            ending: the outcome of the boundary.
            state: the state after it.
            session: the session of the run.
            results: the results of the validation, if there was one.
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
        """Save everything that is pending.

        Args:
            state: the state after the step.
            session: the session of the run.
            due: whether a checkpoint to resume from is due.
            final: whether this is the last save of the run or session, which is made and waited for at any cost.

        Raises:
            RunError: if a save failed, and the plan says to stop then or it is the final one.
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
            self._say("Checkpoints can be written again")
        self._is_tried_again = bool(written) and not any(written)

    def result(self, state: TrainState, session: Session) -> TrainState:
        """Return the state, with every member that stopped early as it was then."""
        return state if self._stopped is None else chosen(session.stopped, self._stopped, state)

    def _can_afford(self, *, together: bool = True) -> bool:
        """Return whether saving has not taken too much of the time, and would not now; together: over all processes."""
        assert self._checkpoints is not None
        allowed = self._budget.allows(self._checkpoints.seconds_left)
        return processes.from_main(allowed) if together else allowed

    def _is_among_the_best(self, score: Score) -> bool:
        """Return whether a validation that is not the best so far is among the others that are kept."""
        if self._saving.keep_best == 1 or not score.is_finite:
            return False
        return len(self._scores) < self._saving.keep_best or score.beats(self._scores[-1])

    def _hold(self, found: _Best) -> None:
        """Keep a copy for the next save; of several, keep the best."""
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
        """Continue without the checkpoint and report it once per reason, or stop.

        Raises:
            RunError: if the plan says to stop.
        """
        if self._saving.on_failure == "stop":
            raise failure
        self._is_tried_again = False
        what = failure.what if isinstance(failure, SaveError) else str(failure)
        reason = failure.reason if isinstance(failure, SaveError) else what
        if reason != self._failing:
            self._failing = reason
            self._say(f"warning: {what}. Training continues (train.on_save_failure), and saving will be retried")

    def _tell(self, steps: int | None) -> None:
        """Log that the interval was lengthened or restored; print it the first time."""
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
