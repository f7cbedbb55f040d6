"""``ablate``: check every cell, then train them one after another; table and figure are kept up to date."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console as RichConsole

from resnet_jax.ablation.cell import CellJob, check_cell, load_result, result_file, train_cell
from resnet_jax.ablation.directory import AblationDirectory, Definition
from resnet_jax.ablation.grid import Cell
from resnet_jax.ablation.result import CellResult
from resnet_jax.ablation.table import comma_separated, markdown, scored
from resnet_jax.errors import UsageError
from resnet_jax.report.ablation_plot import CellCurves, plot_ablation
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.report.plots import training_metric
from resnet_jax.report.text import say
from resnet_jax.report.views import attempt
from resnet_jax.runs.config import RunConfig, require_same
from resnet_jax.runs.data import Pixels, PixelsWanted, RunData, describe_images, load_pixels
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.length import Origin, fit_length
from resnet_jax.runs.recipe_fit import misfit
from resnet_jax.runs.several import require_shared
from resnet_jax.runtime import processes
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.together import ending_together
from resnet_jax.tasks.task import SHARES, metric_words
from resnet_jax.training.interrupt import stop_on_signals
from resnet_jax.training.loop import Interrupted


def ablate(
    definition: Definition,
    out: str | Path | None = None,
    *,
    skip_incompatible: bool = False,
    members_at_once: int | None = None,
    console: RichConsole | None = None,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Train every cell with every seed, and write the table. An unfinished ablation in the directory is resumed.

    Args:
        definition: what to compare.
        out: output directory (default: :meth:`Definition.default_path`).
        skip_incompatible: record cells that cannot be built in the table, with the reason, and run the others.
        members_at_once: maximum number of seeds trained in one program, to limit memory; None for all seeds of a cell.
        console: where to show progress (default: nowhere).
        origin: the recipe that the base configuration started from (default: the shipped one of that name); parts of
            its schedule that do not fit shorter runs are shortened (:mod:`resnet_jax.runs.length`).

    Returns:
        ``recipe``, ``seeds``, ``out`` and ``cells``: for each its labels, settings, status, mean and std of the test
        accuracy (fractions), values by seed, diverged seeds and steps, stuck seeds, reason for rejection, parameters
        and seconds.

    Raises:
        UsageError: if cells cannot be built (all of them are listed), before anything is trained.
        DataError: if the images are invalid.
        RunError: if the directory contains another ablation, is in use, or cannot be written.
        Interrupted: on Ctrl-C or SIGTERM; the state is saved.

    With several processes, all make the same call and train every cell together.
    """
    with ending_together():
        return _ablate(definition, out, skip_incompatible, members_at_once, console, origin)


def _ablate(
    definition: Definition,
    out: str | Path | None,
    skip_incompatible: bool,
    members_at_once: int | None,
    console: RichConsole | None,
    origin: Origin | None,
) -> dict[str, Any]:
    if definition.base.init_from is not None:
        raise UsageError("the cells of an ablation start from scratch: leave out init_from")
    if members_at_once is not None and members_at_once < 1:
        raise UsageError(f"members_at_once must be 1 or more, got {members_at_once}")
    console = console if console is not None and processes.is_main() else RichConsole(quiet=True)
    processes.require_same(yaml.safe_dump(definition.to_dict()), "the definition of the ablation")
    directory = AblationDirectory(Path(out) if out is not None else definition.default_path())
    directory.require(definition)
    if definition.base.data.moved_to is not None and not directory.definition.is_file():
        raise UsageError(
            "data.moved_to says where the images of an ablation under way lie now, and there is none in "
            f"{directory.path}: name the images of a new one with data.source, or the directory with out=PATH"
        )
    load = _ImagesOnce(lambda text: say(console, text))
    checked = _check(definition, load, origin or Origin.of(definition.base))
    _refuse(checked, skip_incompatible)
    processes.on_main(lambda: directory.open(definition))
    job = _Job(definition, directory, checked, console)
    held = RunDirectory(directory.path)
    with processes.held_by_main(lambda: held.locked(job.say)), stop_on_signals() as stop:
        require_shared(held)
        job.announce()
        job.write()
        trained = 0  # updates of the cell that was trained last
        try:
            for index, entry in enumerate(checked):
                result = job.results[index]
                if entry.config is None or result.status == "done":
                    continue
                if processes.any_of(bool(stop)):
                    raise Interrupted(trained, stop)
                job.say(f"cell {index + 1} of {len(checked)}: {result.cell.label}")
                cell_job = CellJob(
                    config=entry.config,
                    images=load(entry.config),
                    run=directory.cell(result.cell),
                    placement=entry.config.train.placed(),
                    say=job.say,
                    stop=stop,
                    members_at_once=members_at_once,
                )
                job.results[index], trained = train_cell(cell_job, result), result.steps or 0
                job.conclude(job.results[index])
                job.write()
        except Interrupted:
            attempt("table.md", job.load_and_write, job.say)  # some seeds of the cell may be done
            raise
    job.say(markdown(job.results, title=job.title))
    if directory.curves.is_file():
        job.say(f"curves {directory.curves}")
    return {
        "recipe": definition.base.recipe,
        "seeds": list(definition.seeds),
        "out": str(directory.path),
        "cells": [result.to_json() for result in job.results],
    }


@dataclasses.dataclass(frozen=True)
class _Checked:
    """A cell after the check: its configuration, or None if it was rejected; and what was adapted."""

    config: RunConfig | None
    result: CellResult
    adapted: tuple[str, ...] = ()


class _ImagesOnce:
    """Loads images once for consecutive configurations that want the same pixels; keeps only the last ones."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._held: tuple[PixelsWanted, Pixels] | None = None
        self._say, self._said = say, set[str]()

    def __call__(self, config: RunConfig) -> RunData:
        # loading sees only this part of a configuration, so that no other field can affect the pixels
        wanted = PixelsWanted.of(config)
        if self._held is None or self._held[0] != wanted:
            self._held = None  # the old ones first out of memory
            self._held = (wanted, load_pixels(wanted))
        images = describe_images(self._held[1], config.data, config.task)
        other_kind = misfit(config, images)
        for note in (*images.splits.notes, *([other_kind] if other_kind else [])):
            if note not in self._said:
                self._say(f"note  {note}")
                self._said.add(note)
        return images


def _check(definition: Definition, load: _ImagesOnce, origin: Origin) -> list[_Checked]:
    """Check every cell; a rejection is a result here."""
    checked = []
    for cell in definition.cells():
        result = CellResult(cell, definition.seeds)
        try:
            config = dataclasses.replace(cell.configure(definition.base), seed=0)
            images = load(config)
            config, adapted = fit_length(
                config,
                dataclasses.replace(origin, chosen=origin.chosen | _schedule_fields(cell)),
                len(images.splits.train) // config.train.batch_size,
            )
            params, steps = check_cell(config, images, config.train.placed())
        except UsageError as error:
            checked.append(_Checked(None, dataclasses.replace(result, refused=str(error))))
        else:
            checked.append(_Checked(config, dataclasses.replace(result, params=params, steps=steps), tuple(adapted)))
    return checked


def _schedule_fields(cell: Cell) -> frozenset[str]:
    prefix = "optim.schedule."
    return frozenset(key.removeprefix(prefix) for key in cell.settings if key.startswith(prefix))


def _refuse(checked: Sequence[_Checked], skip_incompatible: bool) -> None:
    """Stop if a cell was rejected and that is not wanted as a result, or if all were."""
    refused = [entry.result for entry in checked if entry.config is None]
    if not refused or (skip_incompatible and len(refused) < len(checked)):
        return
    if len(refused) == len(checked) and len({result.refused for result in refused}) == 1:
        raise UsageError(str(refused[0].refused))  # nothing to do with the differences between cells
    reasons = "".join(f"\n  {result.cell.id}: {result.refused}" for result in refused)
    hint = "Leave them out, or set skip_incompatible to have the reasons in the table and the others trained."
    if len(refused) == len(checked):
        hint = "There is nothing to train."
    raise UsageError(f"{len(refused)} of {len(checked)} cells cannot be built; nothing was trained:{reasons}\n{hint}")


class _Job:
    """The results so far, and what is written of them."""

    def __init__(
        self, definition: Definition, directory: AblationDirectory, checked: Sequence[_Checked], console: RichConsole
    ) -> None:
        self._definition, self._directory, self._checked, self._console = definition, directory, checked, console
        self.results: list[CellResult] = []
        self.load()

    def load(self) -> None:
        """Read the results stored in the cells' folders."""
        self.results = []
        for entry in self._checked:
            result = entry.result
            if entry.config is not None:
                run = self._directory.cell(result.cell)
                if result_file(run).is_file():
                    require_same(run.read_config(), entry.config, where=run.path)
                result = load_result(result, run)
            self.results.append(result)

    def say(self, text: str) -> None:
        """Print a line as it is."""
        say(self._console, text)

    def announce(self) -> None:
        """Print what there is to do."""
        count = dict.fromkeys(("done", "partial", "pending", "refused"), 0)
        for result in self.results:
            count[result.status] += 1
        seeds = ", ".join(str(seed) for seed in self._definition.seeds)
        parts = [f"{len(self.results)} cells", f"seeds {seeds}"]
        parts += [f"{count['done']} finished before"] if count["done"] else []
        parts += [f"{count['refused']} refused"] if count["refused"] else []
        self.say(f"ablation of {self._definition.base.recipe}: " + ", ".join(parts))
        self.say(f"directory {self._directory.path}")
        for line in dict.fromkeys(line for entry in self._checked for line in entry.adapted):
            self.say(f"adapted: {line}")

    def conclude(self, result: CellResult) -> None:
        """Print the result of a cell."""
        failed = "".join(
            f", {len(seeds)} of {len(result.seeds)} {how}"
            for seeds, how in ((result.diverged, "diverged"), (result.stuck, "stuck at chance"))
            if seeds
        )
        score = scored(result.mean, result.std, result.headline) + (" %" if result.headline in SHARES else "")
        name = result.headline.replace("_", " ")
        self.say(f"  test {name} {score}{failed}, {result.seconds:.0f} s of training")

    @property
    def title(self) -> str:
        """Title of table and figure."""
        return f"Ablation of {self._definition.base.recipe}"

    def load_and_write(self) -> None:
        """Read the results again, and write table and figure."""
        self.load()
        self.write()

    def write(self) -> None:
        """Write the tables of what there is, then the figure; with several processes, the main one does."""
        if not processes.is_main():
            return
        write_whole(self._directory.table_markdown, markdown(self.results, title=self.title))
        write_whole(self._directory.table_csv, comma_separated(self.results))
        attempt(self._directory.curves.name, self._draw, self.say)

    def _draw(self) -> None:
        curves = [
            curves_of(result, read_metrics(self._directory.cell(result.cell).metrics))
            for result in self.results
            if result.refused is None
        ]
        plot_ablation(
            [curve for curve in curves if curve.curves or curve.diverged],
            self._directory.curves,
            title=f"{self.title}, learning curves",
        )


def curves_of(result: CellResult, rows: Sequence[dict[str, Any]]) -> CellCurves:
    """Select the curve of every seed from a cell's rows: the headline metric in validation, or else in training."""
    epochs = [row for row in rows if row["kind"] in ("epoch", "validation")]
    name, measure = f"val_{result.headline}", f"validation {metric_words(result.headline)}"
    if epochs and not any(name in row for row in epochs):
        name = training_metric([row for row in epochs if row["kind"] == "epoch"], result.headline) or "loss"
        measure = f"training {metric_words(name)}"
    curves: dict[int, list[tuple[float, float]]] = {}
    for row in epochs:
        if row.get(name) is not None:
            curves.setdefault(row["seed"], []).append((row["epoch"], row[name]))
    return CellCurves(
        label=result.cell.label,
        measure=measure,
        share=name.removeprefix("val_") in SHARES,
        curves=curves,
        diverged={row["seed"]: row["epoch"] for row in rows if row["kind"] == "diverged"},
        stuck=frozenset(result.stuck),
    )
