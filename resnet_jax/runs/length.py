"""The length of a run: a recipe's schedule in a shorter run, and an existing run directory with another length.

A recipe's schedule is made for the recipe's length. What does not fit into a shorter run is shortened in proportion
(:mod:`resnet_jax.training.shorten`), unless it was chosen for this run; and some networks need another schedule
(:mod:`resnet_jax.runs.companions`).

``train.length`` and ``train.limit`` of a run may change between two commands on one directory. A longer run continues
from the last checkpoint, with the schedule of the new length from there on; so it differs from a run that had the new
length from the start, whose learning rate was different before. A run cannot become shorter than what it has already
done.
"""

from __future__ import annotations

import dataclasses

from resnet_jax.errors import RunError, UsageError
from resnet_jax.runs.companions import accompany
from resnet_jax.runs.config import RunConfig, differences, require_same
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.training.shorten import Length, fit_schedule


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a configuration comes from.

    Attributes:
        recipe: the recipe whose schedule and length it started from.
        chosen: fields of its schedule (``warmup``) that were set for this run, even if to the same value.
    """

    recipe: RunConfig
    chosen: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: RunConfig) -> Origin:
        """Return the shipped recipe that a configuration names; the configuration itself if there is none."""
        try:
            return cls(load_recipe(config.recipe))
        except UsageError:
            return cls(config)


def length_of(config: RunConfig, steps_per_epoch: int) -> Length:
    """Return how many updates a run makes if nothing stops it."""
    return Length(config.train.total_steps(steps_per_epoch), steps_per_epoch)


def fit_length(config: RunConfig, origin: Origin, steps_per_epoch: int) -> tuple[RunConfig, list[str]]:
    """Return the configuration with a schedule that fits its length and network, and a line for each change.

    >>> from resnet_jax.runs.config import TrainConfig
    >>> from resnet_jax.runs.recipes import load_recipe
    >>> short = dataclasses.replace(load_recipe("digits"), train=TrainConfig("1 epochs", batch_size=64))
    >>> fit_length(short, Origin.of(short), 19)[1]
    ["warm-up '1 epochs' becomes '1 steps', in proportion: this run makes 19 of the 285 updates of recipe digits"]
    """
    run, whole = length_of(config, steps_per_epoch), length_of(origin.recipe, steps_per_epoch)
    optim, recipe = config.optim, origin.recipe.optim.schedule
    warmup_is_open = optim.schedule.warmup == recipe.warmup and "warmup" not in origin.chosen
    schedule, said = fit_schedule(optim.schedule, recipe, run=run, whole=whole, chosen=origin.chosen)
    lines = []
    if said:
        config = dataclasses.replace(config, optim=dataclasses.replace(optim, schedule=schedule))
        lines.append(
            f"{', '.join(said)}, in proportion: this run makes {run.steps:,} of the {whole.steps:,} updates of recipe "
            f"{origin.recipe.recipe}"
        )
    config, companions = accompany(config, run=run, warmup_is_open=warmup_is_open)
    return config, lines if companions is None else [*lines, companions]


@dataclasses.dataclass(frozen=True)
class Change:
    """A new length for the run in a directory.

    Attributes:
        before: the existing run.
        after: the requested run.
        done: number of updates of the newest checkpoint.
        finished: number of updates of the result, or None if there is none.
    """

    before: Length
    after: Length
    done: int
    finished: int | None

    def lines(self, after: RunConfig) -> list[str]:
        """Return what to print before resuming."""
        lines = [
            f"Continuing a run of {self.before.steps:,} updates: {self.done:,} are done, and now "
            f"{self.after.steps:,} are requested ({after.train.length}). From here on the learning rate follows the "
            f"schedule over {self.after.steps:,} updates, so the result differs from a run of that length from the "
            "start."
        ]
        if self.finished is not None:
            lines.append(f"The result after {self.finished:,} updates is kept in {_aside(self.finished)}.")
        return lines


@dataclasses.dataclass(frozen=True)
class Settled:
    """The run after all adaptations.

    Attributes:
        config: the configuration with a schedule that fits.
        adapted: a line for each thing that was adapted to the length of the run or to its network.
        change: the new length of the run in the directory, or None.
    """

    config: RunConfig
    adapted: tuple[str, ...] = ()
    change: Change | None = None


def settle(run: RunDirectory, asked: RunConfig, origin: Origin, steps_per_epoch: int) -> Settled:
    """Fit the schedule, and compare with the run that the directory may contain.

    Args:
        run: the directory.
        asked: the requested configuration.
        origin: the origin of ``asked``.
        steps_per_epoch: updates per epoch.

    Raises:
        RunError: if the directory contains a run that differs in more than the length, or cannot have this length.
    """
    config, adapted = fit_length(asked, origin, steps_per_epoch)
    fitted = Settled(config, tuple(adapted))
    if not run.config.is_file():
        return fitted
    held = run.read_config()
    if not differences(held, config):
        return fitted
    lengths = {"length": held.train.length, "limit": held.train.limit}
    as_long = dataclasses.replace(asked, train=dataclasses.replace(asked.train, **lengths))
    if differences(held, fit_length(as_long, origin, steps_per_epoch)[0]):
        require_same(held, config, where=run.path)
    before, after = length_of(held, steps_per_epoch), length_of(config, steps_per_epoch)
    done, summary = run.saved_step(), run.read_summary()
    more_time = held.train.time_limit != config.train.time_limit
    if before == after and not more_time:  # another limit, of no effect
        return dataclasses.replace(fitted, config=held)
    if after.steps < done:
        raise RunError(
            f"the run in {run.path} has made {done:,} updates ({done / steps_per_epoch:.4g} epochs), and "
            f"{after.steps:,} are asked for: it can become longer, but not shorter than that. Use another run directory"
        )
    ended = None if summary is None else summary["finished"]
    if ended == "time limit" and not _is_longer(config.train.time_limit, held.train.time_limit):
        raise RunError(
            f"the run in {run.path} ended by its time limit of {held.train.limit} after {done:,} updates: give "
            "a larger train.limit, or None, or use another run directory"
        )
    if summary is not None and ended not in ("steps", "time limit"):
        raise RunError(
            f"the run in {run.path} ended by {summary['finished']} after {summary['steps']:,} updates; another length "
            "does not change that. Use another run directory"
        )
    change = Change(before, after, done, None if summary is None else summary["steps"])
    return dataclasses.replace(fitted, change=change)


def _is_longer(limit: float | None, than: float | None) -> bool:
    return limit is None or (than is not None and limit > than)


def adopt(run: RunDirectory, change: Change, config: RunConfig) -> None:
    """Give the run its new length; its result, if any, is first set aside so as not to be taken for the new one."""
    if change.finished is not None:
        run.summary.replace(run.path / _aside(change.finished))
    run.write_config(dataclasses.replace(config, data=dataclasses.replace(config.data, moved_to=None)))


def earlier_tests(run: RunDirectory) -> list[int]:
    """Return after how many updates the run was tested before it became longer."""
    return sorted(int(path.stem.removeprefix("summary-")) for path in run.path.glob("summary-*.json"))


def _aside(steps: int) -> str:
    return f"summary-{steps}.json"
