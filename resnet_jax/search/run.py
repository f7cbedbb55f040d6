"""``search``: waves of lanes until the trials or the time are used up, the tables and figures kept up to date."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole

from resnet_jax.errors import UsageError
from resnet_jax.report.text import say
from resnet_jax.runs.build import build_task
from resnet_jax.runs.carried import carries, encoded, values_of, with_options
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import PixelsWanted, RunData, load_images
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.lanes import Lanes, build_lanes, is_loop
from resnet_jax.runs.length import Origin, fit_length, length_of
from resnet_jax.runs.recipe_fit import misfit
from resnet_jax.runtime import processes
from resnet_jax.search.allowance import Allowance
from resnet_jax.search.confirm import confirm
from resnet_jax.search.directory import Definition, SearchDirectory
from resnet_jax.search.halving import Rung, rungs
from resnet_jax.search.result import as_json, counted, scored, settings
from resnet_jax.search.space import SEED, Dimension
from resnet_jax.search.study import Study, Trial, require_optuna
from resnet_jax.search.views import Views
from resnet_jax.search.wave import Job, Wave
from resnet_jax.training.duration import parse_duration
from resnet_jax.training.interrupt import Interrupted, StopRequest, stop_on_signals
from resnet_jax.training.need import memory_told, require_memory
from resnet_jax.training.schedules import warmup_steps

#: Lanes where nothing else is said.
LANES = 8
#: Where there are static choices: trials that are begun in a wave, for each lane.
PER_LANE = 2
#: Waves in a row that cannot be built before the search gives up.
HOPELESS = 10


def search(
    definition: Definition,
    out: str | Path | None = None,
    *,
    trials: int | None = None,
    budget: str | None = None,
    lanes: int | None = None,
    confirm_seeds: int = 0,
    console: RichConsole | None = None,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Search for the options of a recipe. An unfinished search in the directory goes on.

    Args:
        definition: the recipe, the space, what draws and how trials are halved.
        out: where to put it (default: :meth:`Definition.default_path`).
        trials: to begin in all, over all sessions.
        budget: such as ``30 min``: time in all, over all sessions, compilation included.
        lanes: trials trained side by side (default: 8, or as many as there are trials).
        confirm_seeds: with how many seeds the best and the recipe's own values are trained and tested at the end.
        console: where to show progress (default: nowhere).
        origin: the recipe that the base configuration started from; see :func:`resnet_jax.runs.length.fit_length`.

    Returns:
        ``recipe``, ``out``, ``seconds``, ``trials`` (how many of each state), ``best`` (number, values, seed, updates,
        validation metric), ``best_recipe`` and, if it was asked for, ``confirmed``.

    Raises:
        UsageError: neither trials nor a budget, an option out of range, or nothing that can be built.
        DataError: the images are not as they should be.
        RunError: the directory holds another search, is in use, or cannot be written.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    if processes.count() > 1:
        raise UsageError("a search is of one process, on all of its devices")
    seconds = _budget(budget)
    _require(trials is not None or seconds is not None, "say how long to search: trials=N, or budget='30 min'")
    for name, value, least in (("trials", trials, 1), ("lanes", lanes, 1), ("confirm", confirm_seeds, 0)):
        _require(value is None or value >= least, f"{name} must be {least} or more, got {value}")
    base = definition.base
    _require(base.init_from is None, "the trials of a search start from scratch: leave out init_from")
    _require(base.train.time_limit is None, "the trials of a search have a length in updates: leave out train.limit")
    require_optuna()
    directory = SearchDirectory(Path(out) if out is not None else definition.default_path())
    directory.require(definition)
    images = _Images()
    groups = _Groups(definition, images, origin or Origin.of(base))
    programs = {_key({}): groups.program(groups.group({}))}  # what cannot be lanes is refused before a trial is begun
    directory.open(definition)
    held = RunDirectory(directory.path)
    quiet = console or RichConsole(quiet=True)

    def tell(text: str) -> None:
        say(quiet, text)

    with held.locked(tell), stop_on_signals() as stop:
        held.write_data(groups.base_images.card)
        return _search(
            _Session(
                definition,
                directory,
                groups,
                stop,
                tell,
                programs,
                trials=trials,
                seconds=seconds,
                lanes=lanes or min(LANES, trials or LANES),
                confirm_seeds=confirm_seeds,
            )
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _budget(text: str | None) -> float | None:
    if text is None:
        return None
    found = parse_duration(text).seconds
    if found is None or found <= 0:
        raise UsageError(f"budget={text!r} is a time on the clock, such as '30 min' or '2 h'")
    return found


class _Images:
    """Loads images once for all configurations that want the same pixels; holds those of the last one only."""

    def __init__(self) -> None:
        self._held: tuple[Any, RunData] | None = None

    def __call__(self, config: RunConfig) -> RunData:
        wanted = (PixelsWanted.of(config), config.data)
        if self._held is None or self._held[0] != wanted:
            self._held = None  # the old ones first out of memory
            self._held = (wanted, load_images(config))
        return self._held[1]


@dataclasses.dataclass(frozen=True)
class Group:
    """What the trials of the same static choices have in common.

    Attributes:
        config: of one of them; the options that lanes carry have the recipe's values.
        images: what it is trained and validated on.
        rungs: where trials are compared; none is in the first epoch or within twice the warm-up, where the small rates
            look best.
        adapted: a line for everything that was adapted to the length.
    """

    config: RunConfig
    images: RunData
    rungs: tuple[Rung, ...]
    adapted: tuple[str, ...] = ()


class _Groups:
    """Tells the options that lanes carry from static choices, and makes configurations of them.

    Raises:
        UsageError: there are no validation images, or the recipe with the first values of the space cannot be built.
    """

    def __init__(self, definition: Definition, images: _Images, origin: Origin) -> None:
        self._definition, self._images = definition, images
        prefix = "optim.schedule."
        searched = {key.removeprefix(prefix) for key in definition.space.options if key.startswith(prefix)}
        self._origin = dataclasses.replace(origin, chosen=origin.chosen | searched)
        self.base_images = images(definition.base)
        if self.base_images.splits.val is None:
            raise UsageError("trials are compared on validation images: set data.val_fraction above 0")
        options = [one for one in definition.space.dimensions if one.option != SEED]
        self.carried = tuple(one.option for one in options if _is_carried(definition.base, one))
        self.static = tuple(one.option for one in options if one.option not in self.carried)
        self.task = build_task(definition.base, self.base_images.card)

    def static_of(self, trial: Trial) -> dict[str, Any]:
        """Return the static choices of a trial."""
        return {option: trial.values[option] for option in self.static}

    def group(self, values: Mapping[str, Any]) -> Group:
        """Return what the trials with these static choices have in common.

        Raises:
            UsageError: there is no such configuration.
        """
        config = with_options(self._definition.base, values)
        images = self._images(config)
        per_epoch = len(images.splits.train) // config.train.batch_size
        config, adapted = fit_length(config, self._origin, max(per_epoch, 1))
        steps = length_of(config, max(per_epoch, 1)).steps
        least = max(per_epoch, 2 * warmup_steps(config.optim.schedule, max(per_epoch, 1), steps))
        return Group(config, images, rungs(steps, self._definition.eta, least), tuple(adapted))

    def program(self, group: Group) -> Lanes:
        """Build the program of a group; nothing is compiled yet.

        Raises:
            UsageError: choices that do not go together, or that lanes cannot have.
        """
        return build_lanes(group.config, group.images, group.config.train.placed(), self.carried)

    def config(self, trial: Trial) -> RunConfig:
        """Return the configuration that trains as a trial did."""
        group = self.group(self.static_of(trial))
        values = {option: trial.values[option] for option in self.carried}
        return dataclasses.replace(with_options(group.config, values), seed=trial.seed)


def _key(fixed: Mapping[str, Any]) -> str:
    return json.dumps(dict(fixed), sort_keys=True, default=str)


def _is_carried(base: RunConfig, dimension: Dimension) -> bool:
    """Return whether lanes can have all values of an option; of some that turn a transform off at 0 not that."""
    option = dimension.option
    if not carries(base, option):
        return False
    try:
        values = values_of([with_options(base, {option: value}) for value in dimension.values], [option])
        encoded(option, values[option])
    except UsageError:
        return False
    return True


@dataclasses.dataclass
class _Session:
    """One call of ``search``."""

    definition: Definition
    directory: SearchDirectory
    groups: _Groups
    stop: StopRequest
    say: Callable[[str], None]
    programs: dict[str, Lanes]
    trials: int | None
    seconds: float | None
    lanes: int
    confirm_seeds: int


def _search(session: _Session) -> dict[str, Any]:
    directory, groups, definition = session.directory, session.groups, session.definition
    study = Study(directory.study, definition.space, groups.task.mode, definition.sampler, seed=definition.base.seed)
    try:
        allowance = Allowance(session.trials, session.seconds, study.seconds, study.needed)
        views = Views(definition, directory, study, groups.task.headline, session.say)
        _announce(session, study, allowance)
        lost = 0
        while not allowance.is_over and (study.running() or allowance.may_begin(study.count)):
            if session.stop:
                raise Interrupted(0, session.stop)
            running = study.running()
            first = running[0] if running else study.ask()
            fixed = groups.static_of(first)
            try:
                _wave(session, study, allowance, views, fixed, begins=not running)
                lost = 0
            except UsageError as error:  # choices that do not go together; of a space without any it is the recipe
                for one in study.running():
                    study.end(one.number, "failed", str(error).splitlines()[0])
                lost += 1
                session.say(f"cannot be trained: {settings(first)}: {error}")
                if not groups.static or lost >= HOPELESS:
                    raise
        study.spend(allowance)
        views.write()
        views.draw()
        return _conclude(session, study, views)
    finally:
        study.close()


def _wave(
    session: _Session,
    study: Study,
    allowance: Allowance,
    views: Views,
    fixed: Mapping[str, Any],
    *,
    begins: bool,
) -> None:
    """Train trials of these static choices; a wave begins, or one of before goes on."""
    groups, programs, key = session.groups, session.programs, _key(fixed)
    group = groups.group(fixed)
    config, placement = group.config, group.config.train.placed()
    count = session.lanes
    if fixed:
        session.say(f"wave of {', '.join(f'{name} {value}' for name, value in fixed.items())}")
    for line in group.adapted:
        session.say(f"adapted: {line}")
    if key not in programs:
        programs[key] = groups.program(group)
        require_memory(
            programs[key].parts.model,
            group.images.card.image_shape,
            batch=config.train.batch_size,
            accumulate=config.train.accumulate,
            members=count,
            at_once=1 if is_loop(placement) else count,
            devices=placement.devices,
            fsdp=placement.fsdp,
            warn=session.say,
        )
    job = Job(
        study,
        allowance,
        group.rungs,
        session.definition.eta,
        groups.task.headline,
        session.stop,
        session.say,
        wrote=lambda: views.write_now_and_then(groups.config),
        max_rejected=config.train.max_rejected,
        save_share=config.train.save_share,
    )
    records = group.images.splits.val
    assert records is not None  # the base has some, and the options that divide the images are not searched
    folder = session.directory.wave(key, count)
    at_most = PER_LANE * count if groups.static else None
    with memory_told(lambda: f"{count} lanes do not fit into the memory of the device: give fewer lanes (--lanes); "):
        wave = Wave(job, programs[key], config, count, records, fixed, folder, at_most)
        if not begins:
            wave.resume()
        wave.run()
    if not study.running():
        shutil.rmtree(session.directory.checkpoints, ignore_errors=True)


def _announce(session: _Session, study: Study, allowance: Allowance) -> None:
    """Say what is searched."""
    definition, groups, tell = session.definition, session.groups, session.say
    group = groups.group({})
    limits = [] if session.trials is None else [f"{session.trials:,} trials"]
    limits += [] if session.seconds is None else [f"{session.seconds / 60:.4g} minutes in all"]
    tell(f"search of {definition.base.recipe}: {', '.join(limits)}, {session.lanes} lanes, {definition.sampler}")
    tell(f"directory {session.directory.path}")
    if groups.carried:
        tell(f"carried by lanes: {', '.join(groups.carried)}")
    if groups.static:
        tell(f"a program for each choice of: {', '.join(groups.static)}")
    compared = ", ".join(f"{rung.updates:,}" for rung in group.rungs)
    tell(f"compared by validation {groups.task.headline} after {compared} updates")
    other_kind = misfit(definition.base, groups.base_images)
    for note in (*groups.base_images.splits.notes, *([other_kind] if other_kind else [])):
        tell(f"note  {note}")
    if study.count:
        counts = ", ".join(f"{count} {name}" for name, count in counted(study.trials()).items() if count)
        tell(f"going on after {allowance.spent_before:.0f} s: {counts}")


def _conclude(session: _Session, study: Study, views: Views) -> dict[str, Any]:
    """Write the best as a recipe, confirm it if that was asked for, and return the result."""
    directory, groups, tell = session.directory, session.groups, session.say
    headline, best = groups.task.headline, study.best()
    result: dict[str, Any] = {
        "recipe": session.definition.base.recipe,
        "out": str(directory.path),
        "seconds": study.seconds,
        "trials": counted(study.trials()),
        "best": as_json(best, headline),
        "best_recipe": None,
    }
    counts = ", ".join(f"{count} {name}" for name, count in result["trials"].items() if count)
    tell(f"{study.count} trials in {study.seconds:.0f} s: {counts}")
    if result["trials"]["unfinished"]:
        tell("the unfinished ones go on with the same command and a larger budget (--budget)")
    if best is None:
        tell("no trial was measured: there is no best")
        return result
    views.write_best(groups.config(best))
    result["best_recipe"] = str(directory.best)
    if best.state != "complete":
        tell("no trial was trained for the whole length: the best is of those that were trained longest")
    said = f"val {scored(best.value, headline)} after {best.updates:,} updates"
    tell(f"best: trial {best.number}, {said}: {settings(best)}")
    tell(f"recipe {directory.best}")
    if session.confirm_seeds:
        result["confirmed"] = confirm(
            groups.group({}).config,
            groups.config(best),
            session.confirm_seeds,
            directory.confirmed,
            session.stop,
            tell,
        )
    return result
