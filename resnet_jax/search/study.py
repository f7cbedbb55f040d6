"""The study: every trial with its values and outcome, in an SQLite file that outlives the process.

A trial is recorded before it is trained and told to the sampler once. The values drawn for trial n depend only on n and
on the trials before it, so an interrupted search proposes what it would have proposed.
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
#: The states of a trial.
State: TypeAlias = Literal["running", "complete", "stopped", "diverged", "failed"]


#: The attribute of the study that contains the finalists' results with other seeds.
REPEATS = "repeats"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One set of values.

    Attributes:
        number: number of the trial, from 0.
        values: option -> value.
        seed: seed of its training.
        state: complete (full length), stopped (by halving), diverged, failed (could not be built or measured), or
            running (also if the search ended before it did).
        measured: fraction of the length in millionths (:class:`~resnet_jax.search.halving.Rung`) -> validation metric.
        updates: number of updates at its last measurement; 0 if there was none.
        reason: why it was stopped, diverged or failed.
        passed: share of the last rung that it continued from.
        loss: validation loss at the last measurement of the metric.
        repeats: for a finalist, seed -> validation metric and loss of the same values trained with another seed.
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
        """The last measured metric, for a finalist the mean over its seeds; NaN if one of them diverged."""
        if self.value is None:
            return None
        return (self.value + sum(value for value, _ in self.repeats.values())) / (1 + len(self.repeats))

    @property
    def mean_loss(self) -> float:
        """The same for the validation loss."""
        return (self.loss + sum(loss for _, loss in self.repeats.values())) / (1 + len(self.repeats))

    def place(self, mode: Mode) -> tuple[float, float, float, int]:
        """Return a sort key, smaller for better trials: longest trained, then by metric, loss, and number.

        With few validation images many trials have the same metric, and the one with the smallest loss is the better
        choice.
        """
        value = math.inf if self.value is None else rank(self.value, mode)
        return (1 if self.value is None else -self.share, value, self.loss, self.number)

    @property
    def share(self) -> int:
        """Fraction of the length at its last measurement; 0 if there was none."""
        return max(self.measured, default=0)

    @property
    def value(self) -> float | None:
        """The last measured validation metric; None if there is none, or training diverged afterwards."""
        return None if self.state in ("diverged", "failed") or not self.measured else self.measured[self.share]


def require_optuna() -> None:
    """Refuse to continue without Optuna.

    Raises:
        UsageError: if it is not installed; the message names the extra to install.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError(f"resnet-jax search needs Optuna, which is not installed: {install('search')}") from error


class Study:
    """The trials of a search.

    Args:
        path: path of the SQLite file; created if it does not exist.
        space: what is drawn.
        mode: whether a larger or a smaller metric is better.
        sampler: how values are drawn.
        seed: seed of the sampler, and of the trials' training.

    Raises:
        DamagedError: if the file exists and is not a study.
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
        """Close the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def seconds(self) -> float:
        """Time over all sessions, as last recorded."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    @property
    def needed(self) -> float:
        """Seconds that a full-length trial takes, if known."""
        return float(self._study.user_attrs.get("needed", 0.0))

    def spend(self, allowance: Allowance) -> None:
        """Record how much time was spent, and what a trial takes."""
        self._study.set_user_attr("seconds", allowance.spent)
        self._study.set_user_attr("needed", allowance.needed)

    def trials(self) -> list[Trial]:
        """Return all trials, by number."""
        repeats = self._study.user_attrs.get(REPEATS, {})
        return [self._trial(one, repeats.get(str(one.number))) for one in self._study.get_trials(deepcopy=False)]

    @property
    def count(self) -> int:
        """The number of trials begun."""
        return len(self._study.get_trials(deepcopy=False))

    def running(self) -> list[Trial]:
        """Return the trials that have not ended."""
        return [one for one in self.trials() if one.state == "running"]

    def ask(self, fixed: Mapping[str, Any] | None = None) -> Trial:
        """Begin a trial.

        Args:
            fixed: values of some options, given which the others are drawn; None to draw all.
        """
        number = len(self._study.get_trials(deepcopy=False))
        with _quiet():
            self._study.sampler = self._make_sampler(number, fixed or {})
            trial = self._study.ask(self._space.distributions())
        self._trials[trial.number] = trial
        return self._trial(self._frozen(trial.number))

    def report(self, number: int, rung: Rung, value: float, loss: float = math.inf) -> None:
        """Record a measurement; an existing one is kept."""
        if rung.share not in self._frozen(number).intermediate_values:
            self._of(number).set_user_attr("updates", rung.updates)
            self._of(number).set_user_attr("loss", loss if math.isfinite(loss) else None)
            self._of(number).report(value, rung.share)

    def repeat(self, number: int, seed: int, value: float, loss: float) -> None:
        """Record the result of training the values of a finished trial with another seed."""
        known = self._study.user_attrs.get(REPEATS, {})
        pair = [None if math.isnan(one) else one for one in (value, loss)]
        known = {**known, str(number): {**known.get(str(number), {}), str(seed): pair}}
        self._study.set_user_attr(REPEATS, known)  # of the study, for nothing is written to a trial that has ended

    def go_on(self, number: int, rung: Rung) -> None:
        """Record that a trial continues from a rung, where it is not judged again."""
        self._of(number).set_user_attr("passed", rung.share)

    def end(self, number: int, state: State, reason: str = "") -> None:
        """Record the outcome of a trial; an existing outcome is kept.

        Args:
            number: number of the trial.
            state: its outcome. For the sampler, a diverged trial counts as stopped at its last measurement, or as the
                worst if there was none; a failed one does not count.
            reason: the reason, if it is not complete.
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
        """Return the best trial: among finalists by the mean over seeds, otherwise among the longest trained.

        Ties are broken by the smaller validation loss; None if there is no trial.

        A complete trial is better than any other.
        """
        measured = [one for one in self.trials() if one.value is not None]
        if repeated := [one for one in measured if one.repeats]:
            return min(repeated, key=lambda one: (rank(one.mean or 0.0, self.mode), one.mean_loss, one.number))
        return min(measured, key=lambda one: one.place(self.mode), default=None)

    def importances(self) -> tuple[dict[str, float], float]:
        """Return the share of the metric's variance that each option explains (fANOVA), and the share of the length.

        This uses the first rung, where all trials that did not diverge are measured: those that continue are a
        selection of the best, among which an important option may look irrelevant. (Hutter et al., 2014)

        Raises:
            ValueError: if there are too few trials, or all have the same value.
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
        """Draw the missing values of a trial whose process was killed while drawing them."""
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
    """Suppress warnings that parts of Optuna are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
