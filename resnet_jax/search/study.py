"""The study: every trial with its values and what became of it, in an SQLite file that outlives the process.

A trial is written before it is trained and told once. What is drawn for trial n depends on the number n and on the
trials before it alone, so that a search that was stopped proposes what it would have proposed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, assert_never

import numpy as np

from resnet_jax.errors import DamagedError, UsageError
from resnet_jax.runtime.distribution import install
from resnet_jax.search.allowance import Allowance
from resnet_jax.search.halving import WHOLE, Mode, Rung, rank
from resnet_jax.search.space import SEED, Space

if TYPE_CHECKING:
    import optuna

SamplerName: TypeAlias = Literal["tpe", "random", "qmc"]
#: What becomes of a trial.
State: TypeAlias = Literal["running", "complete", "stopped", "diverged", "failed"]


#: The attribute of the study that has what its finalists came to with other seeds.
REPEATS = "repeats"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One set of values.

    Attributes:
        number: from 0.
        values: option -> value.
        seed: of its training.
        state: complete (whole length), stopped (by halving), diverged, failed (could not be built or measured), or
            running (also where the search ended before it did).
        measured: share of the length in millionths (:class:`~resnet_jax.search.halving.Rung`) -> validation metric.
        updates: after which it was measured last; 0 if it never was.
        reason: why it was stopped, diverged or failed.
        passed: share of the last rung that it went on from.
        loss: validation loss, measured with the last metric.
        repeats: of a finalist, seed -> validation metric and loss of the same values trained with another seed.
    """

    number: int
    values: Mapping[str, Any]
    seed: int
    state: State
    measured: Mapping[int, float]
    updates: int = 0
    reason: str = ""
    passed: int = 0
    loss: float = math.inf
    repeats: Mapping[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """The metric that was measured last, of a finalist the mean over its seeds; NaN if one of them diverged."""
        if self.value is None:
            return None
        return (self.value + sum(value for value, _ in self.repeats.values())) / (1 + len(self.repeats))

    @property
    def mean_loss(self) -> float:
        """The same of the validation loss."""
        return (self.loss + sum(loss for _, loss in self.repeats.values())) / (1 + len(self.repeats))

    def place(self, mode: Mode) -> tuple[float, float, float, int]:
        """Return what is smaller for a better trial: longest trained, then by its metric, its loss, and its number.

        On few validation images many trials have the same metric, and the smallest loss is the better choice of them.
        """
        value = math.inf if self.value is None else rank(self.value, mode)
        return (1 if self.value is None else -self.share, value, self.loss, self.number)

    @property
    def share(self) -> int:
        """Share of the length after which it was measured last; 0 if it never was."""
        return max(self.measured, default=0)

    @property
    def value(self) -> float | None:
        """The validation metric that was measured last; None if none was, or training diverged after it."""
        return None if self.state in ("diverged", "failed") or not self.measured else self.measured[self.share]


def require_optuna() -> None:
    """Refuse to go on without Optuna.

    Raises:
        UsageError: it is not installed; with the extra that has it.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError(f"resnet-jax search needs Optuna, which is not installed: {install('search')}") from error


class Study:
    """The trials of a search.

    Args:
        path: of the SQLite file; created if it is not there.
        space: what is drawn.
        mode: whether a larger or a smaller metric is better.
        sampler: what draws.
        seed: of the sampler, and of the trials' training.

    Raises:
        DamagedError: the file is there and is no study.
    """

    def __init__(self, path: Path, space: Space, mode: Mode, sampler: SamplerName = "tpe", seed: int = 0) -> None:
        import optuna
        from sqlalchemy import URL, event
        from sqlalchemy.exc import DatabaseError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.mode: Mode = mode
        self._sampler: SamplerName = sampler
        self._space, self._seed = space, seed
        url = URL.create("sqlite", database=str(path.absolute()))
        try:
            storage = optuna.storages.RDBStorage(
                url.render_as_string(hide_password=False), engine_kwargs={"connect_args": {"timeout": 100}}
            )
            with storage.engine.connect() as connection:  # no wait for the disk a commit; a lost power loses the last
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            event.listen(storage.engine, "connect", _without_waiting)
            storage.engine.dispose()
            with _quiet():
                self._study = optuna.create_study(
                    storage=storage,
                    study_name="search",
                    direction="maximize" if mode == "max" else "minimize",
                    load_if_exists=True,
                    sampler=optuna.samplers.RandomSampler(),
                )
        except (DatabaseError, RuntimeError) as error:
            raise DamagedError(f"{path} is not a study that can be read: {str(error).splitlines()[0]}") from error
        self._storage = storage
        self._trials: dict[int, optuna.Trial] = {}
        self._complete_what_was_begun()

    def close(self) -> None:
        """Let go of the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def seconds(self) -> float:
        """What all sessions took, as it was written last."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    @property
    def needed(self) -> float:
        """Seconds that a trial of the whole length takes, as far as that is known."""
        return float(self._study.user_attrs.get("needed", 0.0))

    def spend(self, allowance: Allowance) -> None:
        """Write how much time was spent, and what a trial takes."""
        self._study.set_user_attr("seconds", allowance.spent)
        self._study.set_user_attr("needed", allowance.needed)

    def trials(self) -> list[Trial]:
        """Return all trials, by number."""
        repeats = self._study.user_attrs.get(REPEATS, {})
        return [self._trial(one, repeats.get(str(one.number))) for one in self._study.get_trials(deepcopy=False)]

    @property
    def count(self) -> int:
        """How many trials were begun."""
        return len(self._study.get_trials(deepcopy=False))

    def running(self) -> list[Trial]:
        """Return those that have no end yet."""
        return [one for one in self.trials() if one.state == "running"]

    def ask(self, fixed: Mapping[str, Any] | None = None) -> Trial:
        """Begin a trial.

        Args:
            fixed: values of some options, which the others are drawn for; None to draw all.
        """
        number = len(self._study.get_trials(deepcopy=False))
        with _quiet():
            self._study.sampler = self._make_sampler(number, fixed or {})
            trial = self._study.ask(self._space.distributions())
        self._trials[trial.number] = trial
        return self._trial(self._frozen(trial.number))

    def report(self, number: int, rung: Rung, value: float, loss: float = math.inf) -> None:
        """Write a measurement; one that is there already stays."""
        if rung.share not in self._frozen(number).intermediate_values:
            self._of(number).set_user_attr("updates", rung.updates)
            self._of(number).set_user_attr("loss", loss if math.isfinite(loss) else None)
            self._of(number).report(value, rung.share)

    def repeat(self, number: int, seed: int, value: float, loss: float) -> None:
        """Write what the values of a trial, which has ended, came to with another seed."""
        known = self._study.user_attrs.get(REPEATS, {})
        pair = [None if math.isnan(one) else one for one in (value, loss)]
        known = {**known, str(number): {**known.get(str(number), {}), str(seed): pair}}
        self._study.set_user_attr(REPEATS, known)  # of the study, for nothing is written to a trial that has ended

    def go_on(self, number: int, rung: Rung) -> None:
        """Write that a trial goes on from a rung, which is not judged again."""
        self._of(number).set_user_attr("passed", rung.share)

    def end(self, number: int, state: State, reason: str = "") -> None:
        """Tell what became of a trial; one that has its end already keeps it.

        Args:
            number: of the trial.
            state: what became of it. A diverged one counts for the sampler as one that was stopped where it was
                measured last, or as the worst if it never was; a failed one does not count.
            reason: why, where it is not complete.
        """
        from optuna.trial import TrialState

        frozen = self._frozen(number)
        if frozen.state.is_finished():
            return
        if reason:
            self._of(number).set_user_attr("reason", reason)
        if state in ("stopped", "diverged"):
            self._of(number).set_user_attr("end", state)
        trial = self._trial(frozen)
        with _quiet():
            if state == "complete":
                self._study.tell(number, trial.measured[trial.share], skip_if_finished=True)
            else:
                how = TrialState.FAIL if state == "failed" else TrialState.PRUNED
                self._study.tell(number, state=how, skip_if_finished=True)

    def best(self) -> Trial | None:
        """Return the best trial: of finalists by the mean over their seeds, else of those that were trained longest.

        Of equal ones that of the smaller validation loss; None if there is none.

        A complete one is better than any that is not.
        """
        measured = [one for one in self.trials() if one.value is not None]
        if repeated := [one for one in measured if one.repeats]:
            return min(repeated, key=lambda one: (rank(one.mean or 0.0, self.mode), one.mean_loss, one.number))
        return min(measured, key=lambda one: one.place(self.mode), default=None)

    def importances(self) -> tuple[dict[str, float], float]:
        """Return how much of the spread of the metric each option explains (fANOVA), after what share of the length.

        At the first rung, where all trials are measured that did not diverge: those that go on further are a choice
        of the best, among which an option that decides much may look as if it decided nothing. (Hutter et al., 2014)

        Raises:
            ValueError: too few trials, or all of one value.
        """
        import optuna

        trials = [one for one in self._study.get_trials(deepcopy=False) if one.intermediate_values]
        first = min((step for one in trials for step in one.intermediate_values), default=0)
        at_first = [one for one in trials if first in one.intermediate_values]
        values = {one.intermediate_values[first] for one in at_first}
        if len(at_first) < 4 or len(values) < 2:
            raise ValueError(f"importances need four trials or more with different values, there are {len(at_first)}")
        with _quiet():
            copy = optuna.create_study(direction=self._study.direction)
            for one in at_first:
                copy.add_trial(
                    optuna.create_trial(
                        params=one.params, distributions=one.distributions, value=one.intermediate_values[first]
                    )
                )
            found = optuna.importance.get_param_importances(
                copy, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
            )
        return dict(found), first / WHOLE

    def _make_sampler(self, number: int, fixed: Mapping[str, Any]) -> Any:
        import optuna

        samplers = optuna.samplers
        sampler: optuna.samplers.BaseSampler
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        match self._sampler:
            case "tpe":  # the trials under way count as bad ones, so that lanes do not all try one place
                sampler = samplers.TPESampler(seed=seed, constant_liar=True)
            case "random":
                sampler = samplers.RandomSampler(seed=seed)
            case "qmc":  # one sequence, whose place in it is kept in the study
                other = samplers.RandomSampler(seed=seed)
                sampler = samplers.QMCSampler(
                    seed=self._seed, scramble=True, independent_sampler=other, warn_independent_sampling=False
                )
            case _:
                assert_never(self._sampler)
        if not fixed:
            return sampler
        drawn = {one.option: one.drawn(fixed[one.option]) for one in self._space.dimensions if one.option in fixed}
        return samplers.PartialFixedSampler(drawn, sampler)

    def _complete_what_was_begun(self) -> None:
        """Draw the values that a trial lacks whose process was killed while it was asked for."""
        wanted = self._space.distributions()
        for one in self._study.get_trials(deepcopy=False):
            lacking = [option for option in wanted if option not in one.params]
            if one.state.is_finished() or not lacking:
                continue
            with _quiet():
                self._study.sampler = self._make_sampler(one.number, {})
                trial = self._of(one.number)
                for one in (one for one in self._space.dimensions if one.option in lacking):
                    one.suggest(trial)

    def _of(self, number: int) -> optuna.Trial:
        import optuna

        if number not in self._trials:
            self._trials[number] = optuna.Trial(self._study, self._frozen(number)._trial_id)
        return self._trials[number]

    def _frozen(self, number: int) -> Any:
        return self._study.get_trials(deepcopy=False)[number]

    def _trial(self, one: Any, repeats: Mapping[str, Any] | None = None) -> Trial:
        values = self._space.values(one.params)
        seed = values.get(SEED, self._seed + (one.number if self._space.seeds == "each" else 0))
        states: dict[str, State] = {"COMPLETE": "complete", "FAIL": "failed", "RUNNING": "running"}
        state = states.get(one.state.name) or one.user_attrs.get("end", "stopped")
        updates, reason, passed = (one.user_attrs.get(*of) for of in (("updates", 0), ("reason", ""), ("passed", 0)))
        loss = one.user_attrs.get("loss")
        loss = math.inf if loss is None else loss
        known = {int(of): _numbers(*pair) for of, pair in (repeats or {}).items()}
        measured = dict(one.intermediate_values)
        return Trial(one.number, values, int(seed), state, measured, updates, reason, passed, loss, known)


def _numbers(value: float | None, loss: float | None) -> tuple[float, float]:
    return math.nan if value is None else value, math.nan if loss is None else loss


def _without_waiting(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out that parts of Optuna may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
