"""A wave: trials with the same static choices, trained as lanes of one program until none is left.

Between two calls of the program, lanes that have reached a rung are measured, the worse ones are stopped, and their
lanes continue with new trials. The states of the lanes are saved with the numbers of their trials and updates, so a
search that is killed loses the updates since the last save, but no trial.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.records import Records
from resnet_jax.runs.carried import values_of, with_options
from resnet_jax.runs.config import RunConfig
from resnet_jax.search.allowance import Allowance
from resnet_jax.search.halving import Rung, kept, next_rung
from resnet_jax.search.result import scored, settings
from resnet_jax.search.study import Study, Trial
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.interrupt import Interrupted, StopRequest
from resnet_jax.training.retention import Keep
from resnet_jax.training.save_budget import SaveBudget
from resnet_jax.training.state import TrainState

#: Approximate seconds between checks of signals and budget; and number of updates of the first call.
CALL_SECONDS, FIRST_CALL = 5.0, 8
#: Minimum number of seconds between two checkpoints of the lanes.
SAVE_SECONDS = 15.0


class Trained(Protocol):
    """Lanes of one compiled program, as :class:`resnet_jax.runs.lanes.Lanes`."""

    @property
    def names(self) -> Sequence[str]:
        """The options in which lanes can differ."""
        ...

    def new_states(self, seeds: Sequence[int]) -> TrainState:
        """Return new states, one per lane."""
        ...

    def restart(self, states: TrainState, lane: int, seed: int) -> TrainState:
        """Put a new state into one lane."""
        ...

    def advance(
        self, states: TrainState, values: Mapping[str, Any], seeds: Sequence[int], starts: Sequence[int], count: int
    ) -> tuple[TrainState, Mapping[str, Any]]:
        """Make updates; lane k has made ``starts[k]`` before."""
        ...

    def evaluate(self, states: TrainState, records: Records) -> list[Evaluation]:
        """Measure every lane."""
        ...


@dataclasses.dataclass(frozen=True)
class Job:
    """What the lanes of a search depend on.

    Attributes:
        study: the trials.
        allowance: how many more trials may begin, and for how long.
        rungs: where lanes are measured; the last is the full length.
        eta: parameter of successive halving.
        headline: the metric.
        stop: returns whether to stop.
        say: prints a line.
        wrote: called when trials have ended.
        max_rejected: number of consecutive updates that may be rejected before a trial counts as diverged.
        save_share: fraction of the time that saving may take.
    """

    study: Study
    allowance: Allowance
    rungs: tuple[Rung, ...]
    eta: int
    headline: str
    stop: StopRequest
    say: Callable[[str], None]
    wrote: Callable[[], None] = lambda: None
    max_rejected: int = 0
    save_share: float = 0.05


@dataclasses.dataclass
class _Lane:
    """A trial in progress.

    Attributes:
        trial: its values and seed.
        config: configuration of its training.
        step: number of updates made.
        rejected: number of consecutive rejected updates.
    """

    trial: Trial
    config: RunConfig
    step: int = 0
    rejected: int = 0


class Wave:
    """Trials with the same static choices, as lanes of one program.

    Args:
        job: the job of the search.
        lanes: the program.
        config: what all trials of the wave have in common.
        count: number of lanes.
        records: validation images.
        fixed: the static choices of the wave.
        folder: where the lanes are saved.
        at_most: number of trials after which this wave ends; None for no limit.
    """

    def __init__(
        self,
        job: Job,
        lanes: Trained,
        config: RunConfig,
        count: int,
        records: Records,
        fixed: Mapping[str, Any],
        folder: Path,
        at_most: int | None = None,
    ) -> None:
        self._job, self._lanes, self._records, self._fixed = job, lanes, records, dict(fixed)
        self._config, self._folder, self._at_most, self._begun = config, folder, at_most, 0
        self._slots: list[_Lane | None] = [None] * count
        self._made = [0] * count  # updates of every lane's state, also of those that stand idle
        self._waiting: list[Trial] = []
        self._states: Any = None
        self._call, self._per_update, self.updates = FIRST_CALL, 0.0, 0
        self._saved_at, self._save_budget = time.monotonic(), SaveBudget(job.save_share)

    def run(self) -> None:
        """Train until no trial of the wave is left, or the time is up.

        Raises:
            Interrupted: if a signal asked to stop; the lanes are saved.
            RunError: if the lanes cannot be saved.
        """
        job = self._job
        taken = {lane.trial.number for lane in self._slots if lane is not None}
        self._waiting = [one for one in job.study.running() if one.number not in taken]
        with Checkpoints(self._folder, warn=job.say, keep=Keep(2, 1)) as checkpoints:
            while True:
                if job.stop or job.allowance.is_over:
                    self._save(checkpoints, final=True)
                    if job.stop:
                        raise Interrupted(self.updates, job.stop)
                    return
                self._refill()
                running = [lane for lane in self._slots if lane is not None]
                if not running:
                    return
                self._advance(
                    min(min(next_rung(lane.step, job.rungs).updates - lane.step for lane in running), self._call)
                )
                if self._judge():
                    job.study.spend(job.allowance)
                    job.wrote()
                self._save(checkpoints)

    def _refill(self) -> None:
        """Assign waiting trials to idle lanes, then new ones."""
        fresh = []
        for place, lane in enumerate(self._slots):
            if lane is None and (trial := self._next()) is not None:
                self._slots[place] = _Lane(trial, self._configured(trial))
                fresh.append(place)
        if self._states is None:
            self._states = self._lanes.new_states(self._seeds())
            return
        for place in fresh:
            self._made[place] = 0
            self._states = self._lanes.restart(self._states, place, self._seeds()[place])

    def _next(self) -> Trial | None:
        if self._waiting:
            return self._waiting.pop(0)
        study, full = self._job.study, self._at_most is not None and self._begun >= self._at_most
        if full or not self._job.allowance.may_begin(study.count):
            return None
        self._begun += 1
        return study.ask(self._fixed)

    def _advance(self, count: int) -> None:
        """Make this many updates of every lane; idle lanes repeat another's."""
        began = time.monotonic()
        some = next(lane for lane in self._slots if lane is not None)
        lanes = [lane or some for lane in self._slots]
        values = values_of([lane.config for lane in lanes], self._lanes.names)
        self._states, metrics = self._lanes.advance(self._states, values, self._seeds(), self._made, count)
        self._made = [made + count for made in self._made]
        rejected = np.asarray(metrics["rejected"])
        self._job.stop.begun = True
        self.updates += count
        for place, lane in enumerate(self._slots):
            if lane is not None:
                lane.step += count
                self._watch(place, lane, rejected[:, place])
        took = (time.monotonic() - began) / count
        if self._per_update or self.updates > count:  # not the first call, which compiles
            self._per_update = took if not self._per_update else 0.7 * self._per_update + 0.3 * took
            self._job.allowance.needed = self._per_update * self._job.rungs[-1].updates
            self._call = max(int(CALL_SECONDS / max(self._per_update, 1e-6)), 1)

    def _watch(self, place: int, lane: _Lane, rejected: np.ndarray) -> None:
        """End a trial with too many consecutive non-finite updates."""
        for index, one in enumerate(rejected):
            lane.rejected = lane.rejected + 1 if one else 0
            if lane.rejected > self._job.max_rejected:
                step = lane.step - len(rejected) + index + 1
                self._end(place, "diverged", f"diverged at update {step:,}")
                return

    def _judge(self) -> bool:
        """Measure the lanes at a rung, then stop those that do not continue; return whether a trial ended."""
        job, study = self._job, self._job.study
        at = {rung.updates: rung for rung in job.rungs}
        due = [place for place, lane in enumerate(self._slots) if lane is not None and lane.step in at]
        ended = any(lane is None for lane in self._slots)
        if not due:
            return ended
        results = self._lanes.evaluate(self._states, self._records)
        for place in due:
            lane = self._slots[place]
            assert lane is not None
            found = results[place]
            study.report(lane.trial.number, at[lane.step], float(found.metrics[job.headline]), float(found.loss))
        trials = {one.number: one for one in study.trials()}
        for place in due:
            lane = self._slots[place]
            assert lane is not None
            rung = at[lane.step]
            measured = {
                number: one.measured[rung.share] for number, one in trials.items() if rung.share in one.measured
            }
            one, value = trials[lane.trial.number], measured[lane.trial.number]
            if np.isnan(value):
                self._end(place, "failed", f"validation {job.headline} is not a number after {lane.step:,} updates")
            elif rung == job.rungs[-1]:
                self._end(place, "complete", value=value)
            elif one.passed >= rung.share or one.number in kept(measured, job.eta, study.mode):
                study.go_on(one.number, rung)
            else:
                self._end(place, "stopped", f"not among the best 1/{job.eta} after {lane.step:,} updates", value)
        return True

    def _end(self, place: int, state: Any, reason: str = "", value: float | None = None) -> None:
        """Tell the study, and mark the lane as idle."""
        lane = self._slots[place]
        assert lane is not None
        self._job.study.end(lane.trial.number, state, reason)
        self._slots[place] = None
        said = f"{state}" if state != "stopped" else f"stopped at {lane.step:,} of {self._job.rungs[-1].updates:,}"
        said = reason if state in ("diverged", "failed") else f"{said}, val {scored(value, self._job.headline)}"
        self._job.say(f"trial {lane.trial.number}: {said} ({settings(lane.trial)})")

    def _configured(self, trial: Trial) -> RunConfig:
        return with_options(self._config, {name: trial.values[name] for name in self._lanes.names})

    def _seeds(self) -> list[int]:
        return [0 if lane is None else lane.trial.seed for lane in self._slots]

    def resume(self) -> None:
        """Resume the trials in progress: from the saved lanes, and others from the start.

        Raises:
            RunError: if the saved lanes cannot be read.
        """
        with Checkpoints(self._folder, warn=self._job.say) as checkpoints:
            self._take_up(checkpoints)

    def _take_up(self, checkpoints: Checkpoints) -> None:
        running = {one.number: one for one in self._job.study.running()}
        if running and checkpoints.steps("last"):
            like = self._lanes.new_states(self._seeds())
            found = checkpoints.resume(like.replace(step=like.step[0]), axis=1)
            if found is not None:
                state, progress = found
                for place, (number, step) in enumerate(progress["lanes"]):
                    if number in running:
                        trial = running.pop(number)
                        self._slots[place] = _Lane(trial, self._configured(trial), step)
                self.updates, self._made = progress["updates"], [step for _, step in progress["lanes"]]
                steps = jax.device_put(np.asarray(self._made, np.int32), like.step.sharding)
                self._states = state.replace(step=steps)
        if lanes := [lane for lane in self._slots if lane is not None]:
            at = ", ".join(f"{lane.trial.number} at {lane.step:,}" for lane in lanes)
            self._job.say(f"resuming trials (trial at update): {at}")
        if running:
            self._job.say(f"restarting trials {', '.join(map(str, sorted(running)))}")

    def _save(self, checkpoints: Checkpoints, *, final: bool = False) -> None:
        """Save the lanes, if it is time and saving has not taken too much of it."""
        now = time.monotonic()
        due = now - self._saved_at >= SAVE_SECONDS and self._save_budget.allows(checkpoints.seconds_left)
        if self._states is None or self.updates == 0 or not (due or final):
            return
        numbers = [-1 if lane is None else lane.trial.number for lane in self._slots]
        table = [list(row) for row in zip(numbers, self._made, strict=True)]
        state = self._states.replace(step=jnp.int32(self.updates))
        checkpoints.save("last", state, {"lanes": table, "updates": self.updates}, axis=1)
        if final:
            checkpoints.flush()
        self._job.study.spend(self._job.allowance)
        self._saved_at = time.monotonic()
        self._save_budget.spend(self._saved_at - now)
