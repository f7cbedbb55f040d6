"""``search``: waves of lanes until the trials or the time are used up; tables and figures are kept up to date."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole

from resnet_jax.errors import UsageError
from resnet_jax.report.text import say
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.lanes import Lanes, is_loop
from resnet_jax.runs.length import Origin
from resnet_jax.runs.recipe_fit import misfit
from resnet_jax.runtime import processes
from resnet_jax.search.allowance import Allowance
from resnet_jax.search.confirm import confirm
from resnet_jax.search.directory import Definition, SearchDirectory
from resnet_jax.search.finalists import choose_finalists, repeat_finalists, waves_of
from resnet_jax.search.groups import Groups, Images, key_of
from resnet_jax.search.result import as_json, counted, scored, settings
from resnet_jax.search.study import Study, require_optuna
from resnet_jax.search.views import Views
from resnet_jax.search.wave import Job, Wave
from resnet_jax.training.duration import parse_duration
from resnet_jax.training.interrupt import Interrupted, StopRequest, stop_on_signals
from resnet_jax.training.need import memory_told, require_memory

#: Default number of lanes.
LANES = 8
#: With static choices: number of trials per lane that begin in a wave.
PER_LANE = 2
#: Number of consecutive waves that cannot be built before the search gives up.
HOPELESS = 10


def search(
    definition: Definition,
    out: str | Path | None = None,
    *,
    trials: int | None = None,
    budget: str | None = None,
    lanes: int | None = None,
    finalists: int = 4,
    confirm_seeds: int = 0,
    console: RichConsole | None = None,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Search for better options of a recipe. An unfinished search in the directory is resumed.

    Args:
        definition: the recipe, the space, the sampler and the halving.
        out: output directory (default: :meth:`Definition.default_path`).
        trials: total number of trials, over all sessions.
        budget: total time over all sessions, including compilation, such as ``30 min``.
        lanes: number of trials trained side by side (default: 8, or the number of trials if smaller).
        finalists: number of the best full-length trials to train again with two more seeds each; the one with the best
            mean is selected. Below 2: none.
        confirm_seeds: number of seeds with which the best and the recipe's own values are trained and tested at the
            end.
        console: where to show progress (default: nowhere).
        origin: the recipe that the base configuration started from; see :func:`resnet_jax.runs.length.fit_length`.

    Returns:
        ``recipe``, ``out``, ``seconds``, ``trials`` (number in each state), ``best`` (number, values, seed, updates,
        validation metric), ``best_recipe`` and, if requested, ``confirmed``.

    Raises:
        UsageError: if neither trials nor a budget are given, an option is out of range, or nothing can be built.
        DataError: if the images are invalid.
        RunError: if the directory contains another search, is in use, or cannot be written.
        Interrupted: on Ctrl-C or SIGTERM; the state is saved.
    """
    if processes.count() > 1:
        raise UsageError("a search is of one process, on all of its devices")
    seconds = _budget(budget)
    _require(trials is not None or seconds is not None, "say how long to search: trials=N, or budget='30 min'")
    for name, value, least in (
        ("trials", trials, 1),
        ("lanes", lanes, 1),
        ("finalists", finalists, 0),
        ("confirm", confirm_seeds, 0),
    ):
        _require(value is None or value >= least, f"{name} must be {least} or more, got {value}")
    base = definition.base
    _require(base.init_from is None, "the trials of a search start from scratch: leave out init_from")
    _require(
        not confirm_seeds or base.train.test_views == "none",
        "confirm tests its seeds together, and train.test_views goes with a run alone: set it to none, or leave out "
        "confirm and train best.yaml with several seeds",
    )
    _require(base.train.time_limit is None, "the trials of a search have a length in updates: leave out train.limit")
    require_optuna()
    directory = SearchDirectory(Path(out) if out is not None else definition.default_path())
    directory.require(definition)
    images = Images()
    groups = Groups(definition, images, origin or Origin.of(base))
    programs = {key_of({}): groups.program(groups.group({}))}  # what cannot be lanes is refused before a trial is begun
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
                finalists=finalists,
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


@dataclasses.dataclass
class _Session:
    """One call of ``search``."""

    definition: Definition
    directory: SearchDirectory
    groups: Groups
    stop: StopRequest
    say: Callable[[str], None]
    programs: dict[str, Lanes]
    trials: int | None
    seconds: float | None
    lanes: int
    finalists: int
    confirm_seeds: int


def _search(session: _Session) -> dict[str, Any]:
    directory, groups, definition = session.directory, session.groups, session.definition
    study = Study(directory.study, definition.space, groups.task.mode, definition.sampler, seed=definition.base.seed)
    try:
        allowance = Allowance(session.trials, session.seconds, study.seconds, study.needed)
        allowance.waves_after = waves_of(session.finalists, session.lanes)
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
        finalists = choose_finalists(study.trials(), study.mode, session.finalists)
        repeat_finalists(study, session.groups, session.programs, finalists, session.lanes, session.stop, session.say)
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
    """Train trials with these static choices; starts a wave or resumes an earlier one."""
    groups, programs, key = session.groups, session.programs, key_of(fixed)
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
    """Print what is searched."""
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
        tell(f"resuming after {allowance.spent_before:.0f} s: {counts}")


def _conclude(session: _Session, study: Study, views: Views) -> dict[str, Any]:
    """Write the best trial as a recipe, confirm it if requested, and return the result."""
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
        tell("to resume the unfinished ones, run the same command with a larger budget (--budget)")
    if best is None:
        tell("no trial was measured, so there is no best one")
        return result
    views.write_best(groups.config(best))
    result["best_recipe"] = str(directory.best)
    if best.state != "complete":
        tell("no trial was trained for the whole length: the best is of those that were trained longest")
    said = f"val {scored(best.mean, headline)} after {best.updates:,} updates"
    said += f", mean of {1 + len(best.repeats)} seeds" if best.repeats else ""
    tell(f"best: trial {best.number}, {said}: {settings(best)}")
    tell(f"recipe {directory.best}")
    if session.confirm_seeds:
        result["confirmed"] = confirm(
            {"recipe": groups.group({}).config, "best": groups.config(best)},
            session.confirm_seeds,
            {"recipe": directory.confirmation(None), "best": directory.confirmation(best.number)},
            directory.confirmed,
            session.stop,
            tell,
            at_once=session.lanes,  # so many are known to fit into memory
        )
    return result
