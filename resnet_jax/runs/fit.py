"""``fit``: from a configuration to a trained network and its run directory, resumed where it stopped."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole

from resnet_jax.data.source import is_gone
from resnet_jax.errors import DataError, UsageError
from resnet_jax.report.text import say
from resnet_jax.report.trackers import make_observers
from resnet_jax.report.views import View
from resnet_jax.runs.arrays import Arrays, images_of_arrays
from resnet_jax.runs.auto import begin_fit
from resnet_jax.runs.build import build_parts
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.corrupt import CorruptList
from resnet_jax.runs.data import RunData, load_images
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.finetune import find_source, require_transfer
from resnet_jax.runs.fitted import Fit
from resnet_jax.runs.job import FirstStep, Job, announce, compilations_said, sayer
from resnet_jax.runs.length import Origin, adopt, settle
from resnet_jax.runs.outcome import Pictures, Summary, conclude, say_if_stuck
from resnet_jax.runs.recipe_fit import elsewhere, misfit
from resnet_jax.runs.several import require_one_data, require_one_run, require_shared
from resnet_jax.runs.teacher import require_same_teacher, teacher_record
from resnet_jax.runs.testing import test_once
from resnet_jax.runs.train_run import restore_or_begin, train_run
from resnet_jax.runtime import processes
from resnet_jax.runtime.events import EventLog
from resnet_jax.runtime.together import ending_together
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.interrupt import stop_on_signals
from resnet_jax.training.need import memory_told, require_memory
from resnet_jax.training.observers import tell
from resnet_jax.training.retention import Keep


def fit(
    config: RunConfig | str | Path | Arrays,
    run_dir: str | Path | None = None,
    *,
    data: str | Path | Arrays | None = None,
    console: RichConsole | None = None,
    origin: Origin | None = None,
    observers: Sequence[Any] = (),
    narrow: Callable[[RunData], RunData] | None = None,
) -> Fit:
    """Train, select the state, and test once. An unfinished run of the same configuration in the directory is resumed.

    If the recipe's schedule does not fit into a shorter run, it is shortened in proportion, and if only the length of
    an existing run differs, that run is continued (:mod:`resnet_jax.runs.length`); both are reported.

    With several processes (:func:`resnet_jax.initialize_processes`), all of them make the same call: the main process
    writes the files, calls observers and prints, and what ends one process ends all.

    Arrays are split into training, validation and test like any source; a run on arrays must be resumed with the same
    ones.

    Args:
        config: what to do; see :func:`resnet_jax.runs.recipes.load_recipe`. Omit it to give only ``data``: everything
            else is then chosen for the data (:func:`resnet_jax.runs.defaults.choose`), unless ``run_dir`` contains a
            run.
        run_dir: the run directory (default: :func:`resnet_jax.runs.directory.default_path`, or
            :func:`resnet_jax.runs.auto.auto_path` if only data is given).
        data: data to use instead of ``data.source``: a path, or arrays ``(x, y)``, ``{"image": x, "label": y}`` or
            anything that :func:`resnet_jax.data.load_arrays` accepts.
        console: where to show progress (default: nowhere).
        origin: the recipe that ``config`` started from (default: the shipped recipe of that name).
        observers: training observers, in addition to those in ``train.observers``; see
            :class:`~resnet_jax.training.observers.Observer`. An observer that raises an exception is reported and
            dropped.
        narrow: removes images once they are loaded, for a trial that is not a run; data.json still describes all of
            them.

    Returns:
        The finished run: its summary, history and network.

    Raises:
        UsageError: if the configuration cannot be run.
        DataError: if the images are invalid.
        RunError: if training diverged, the directory belongs to another run or is not writable, or the weights to start
            from have changed.
        Interrupted: on Ctrl-C or SIGTERM; the state is saved.
    """
    with ending_together():
        return _fit(config, run_dir, data, console, origin, observers, narrow)


def _fit(
    config: RunConfig | str | Path | Arrays,
    run_dir: str | Path | None,
    data: str | Path | Arrays | None,
    console: RichConsole | None,
    origin: Origin | None,
    observers: Sequence[Any],
    narrow: Callable[[RunData], RunData] | None,
) -> Fit:
    began, main = time.perf_counter(), processes.is_main()
    console = console if console is not None and main else RichConsole(quiet=True)
    begun = begin_fit(config, run_dir, data)
    require_one_run(begun)
    config, run, dataset = begun.config, RunDirectory(begun.run_dir), begun.dataset
    for line in begun.lines:
        say(console, line)
    processes.on_main(lambda: run.mend(sayer(console)))
    asked, origin = config, origin or Origin.of(config)
    if config.data.moved_to is not None and not run.config.is_file():
        raise UsageError(
            f"data.moved_to says where the images of a run under way lie now, and there is no run in {run.path}: name "
            "the images of a new one with data.source, or the run with run_dir"
        )
    settled = None
    if (steps_per_epoch := run.steps_per_epoch(asked.train.batch_size)) is not None:
        settled = settle(run, asked, origin, steps_per_epoch)
    source = find_source(config, run)
    images = None if dataset is None else images_of_arrays(config, run, dataset)
    if settled is not None and settled.change is None and (stored := run.read_summary()) is not None:
        return Fit(_finished_before(Summary.from_json(stored), run, settled.config, console))
    told = [*make_observers(config.train.observers), *observers] if main else []

    images = images or _images_of(config, run)
    images = images if narrow is None else narrow(images)
    require_one_data(images.card)
    settled = settled or settle(run, asked, origin, len(images.splits.train) // asked.train.batch_size)
    config, change = settled.config, settled.change
    parts = build_parts(config, images, config.train.placed())
    if source is not None:
        require_transfer(config, source, parts, images.card)
    require_same_teacher(run, parts.teacher)
    require_memory(
        parts.model,
        images.card.image_shape,
        batch=config.train.batch_size,
        accumulate=config.train.accumulate,
        devices=parts.placement.devices,
        fsdp=parts.placement.fsdp,
        warn=sayer(console),
        beside=None if parts.teacher is None else parts.teacher.trained.model,
    )
    other_kind = misfit(config, images)
    notes = [*images.splits.notes, *([other_kind] if other_kind else [])]
    events = EventLog(run.events if main else None)
    keep = Keep(config.train.keep_last, config.train.keep_best)

    def write() -> None:
        run.write_data(images.card)
        run.write_notes(notes)
        if start := {**(source.record() if source else {}), **teacher_record(parts.teacher)}:
            run.write_start(start)

    processes.on_main(lambda: RunDirectory.open(run.path, config if change is None else run.read_config()))
    with (
        processes.held_by_main(lambda: run.locked(sayer(console))) as held,
        stop_on_signals() as stop,
        Checkpoints(run.checkpoints, events=events, warn=sayer(console), keep=keep) as checkpoints,
    ):
        processes.on_main(write)
        require_shared(run)
        events.add("start", process=os.getpid(), host=platform.node(), devices=parts.placement.size)
        views = [View(_name(one), lambda one=one: one, sayer(console)) for one in told]
        first, corrupt = FirstStep(began), CorruptList(run.corrupt, images.unreadable, sayer(console), writes=main)
        feed = parts.make_feed()
        job = Job(config, images, parts, run, checkpoints, console, source, first, feed, corrupt, events, held)
        announce(job, settled, notes)
        if change is not None:
            processes.on_main(lambda: adopt(run, change, config))
        with contextlib.ExitStack() as stack:
            for view in views:
                stack.callback(view.close)
            stack.enter_context(compilations_said(job.say))
            with memory_told():
                state, progress = restore_or_begin(job)
                state, progress = train_run(job, state, progress, stop, views)
            summary, result = test_once(job, state, progress, began)
            try:  # first of all, while signals wait; what cannot be written is at least said
                processes.on_main(lambda: run.write_summary(summary.to_json()))
            finally:
                conclude(summary, job.say)
            events.add("end", step=summary.steps, reason=summary.finished)
            tell(views, "on_end", summary.to_json())
    if not main:
        return Fit(summary)
    job.pictures.draw_all(result)
    job.pictures.say_where()
    job.say(f"params sha256 {summary.params_digest}")
    say_if_stuck(summary, job.say)
    return Fit(summary)


def _name(observer: Any) -> str:
    """Return the name of an observer for messages."""
    return type(observer).__name__


def _finished_before(summary: Summary, run: RunDirectory, config: RunConfig, console: RichConsole) -> Summary:
    """Report that there is nothing to do; draw missing figures."""
    tell = sayer(console)
    tell(f"This run is finished; its result is in {run.summary}. Nothing was trained or tested again.")
    if config.train.depth_every is not None and not run.depth.is_file():
        tell("It kept no gradients through depth: to train again with them, give another run_dir.")
    if processes.is_main():
        Pictures(run, config, tell).draw_missing()
    say_if_stuck(summary, tell)
    return summary


def _images_of(config: RunConfig, run: RunDirectory) -> RunData:
    try:
        return load_images(config)
    except DataError as error:
        if run.config.is_file() and is_gone(config.data.place):
            raise DataError(
                f"{error}. If the images of the run in {run.path} lie elsewhere now, say where with data.moved_to"
            ) from error
        if "image_size" in str(error):  # of several sizes, which a recipe for images of one size does not bring to one
            raise DataError(f"{error}{elsewhere(config)}") from error
        raise
