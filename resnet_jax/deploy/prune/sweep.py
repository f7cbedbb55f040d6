"""Accuracy against speed: prune a network by several ratios, fine-tune all in the same way, and time them in turns.

=======================  ==========================================================================
``full/``                the original network, written and fine-tuned like the others
``ratio-0.5/``           the pruned network, a run directory with ``finetuned`` in it
``table.md``, ``.csv``   a row for each, the full network first
``table.png``            accuracy over images per second
=======================  ==========================================================================
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from resnet_jax.deploy.prune.how import HowToPrune
from resnet_jax.deploy.prune.speed import time_in_turns
from resnet_jax.deploy.prune.structured import (
    FINETUNED,
    RECORD,
    config_of,
    finetune_pruned,
    images_for,
    prune_network,
    record_of,
    write_pruned,
)
from resnet_jax.errors import RunError, UsageError
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.evaluate import evaluate_run
from resnet_jax.runs.trained import TrainedRun, load_run
from resnet_jax.runtime.files import write_whole
from resnet_jax.tasks.task import SHARES, metric_words

FULL = "full"
COLUMNS = (
    "network", "ratio", "blocks", "parameters", "multiply-adds", "pruned", "fine-tuned", "ms a batch", "images/s",
    "speed",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Point:
    """A network of the sweep.

    Attributes:
        name: name of its directory.
        ratio: share of the channels that was removed.
        blocks: number of remaining residual blocks.
        params: parameters.
        macs: multiply-adds per image.
        pruned: headline metric on the test split before fine-tuning; None without a test split.
        finetuned: the same after fine-tuning; None without fine-tuning.
        seconds: seconds per batch.
        images_per_second: throughput.
        speedup: relative to the full network, in the same rounds.
    """

    name: str
    ratio: float
    blocks: int
    params: int
    macs: int
    pruned: float | None
    finetuned: float | None
    seconds: float
    images_per_second: float
    speedup: float

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        shares = ("" if each is None else f"{each:.4f}" for each in (self.pruned, self.finetuned))
        return (
            self.name, f"{self.ratio:g}", f"{self.blocks}", f"{self.params}", f"{self.macs}", *shares,
            f"{1e3 * self.seconds:.2f}", f"{self.images_per_second:.0f}", f"{self.speedup:.2f}",
        )  # fmt: skip


def sweep(
    trained: TrainedRun,
    how: HowToPrune,
    out: Path,
    given: Mapping[str, Any],
    *,
    batch: int = 64,
    console: Console | None,
    tell: Callable[[str], None],
) -> list[Point]:
    """Prune by each ratio, fine-tune each result and the full network alike, and time all in turns. Resumes.

    Args:
        trained: the run.
        how: what to remove; channels only.
        out: the directory.
        given: options of data and fine-tuning.
        batch: images per timed call.
        console: displays the progress of training.
        tell: called with lines of text.

    Raises:
        UsageError: the network is not prunable, or the directory belongs to another command.
        RunError: as :func:`resnet_jax.runs.fit.fit`.
    """
    config = config_of(trained, given)
    images, made, source = None, [], None if trained.was_trained_here else given.get("data.source")
    for name, ratio in ((FULL, 0.0), *((f"ratio-{ratio:g}", ratio) for ratio in how.ratio)):
        own = dataclasses.replace(how, drop_blocks=0, without_blocks=(), recalibrate=False) if name == FULL else how
        run = RunDirectory(out / name)
        if not (run.path / RECORD).is_file():
            if images is None and name != FULL:
                images = images_for(trained, config, how, given, tell)
            pruned = prune_network(trained, own, ratio, images, how.criterion or "norm_scale")
            record = record_of(trained, own, ratio, pruned)
            run = write_pruned(run.path, trained, config, pruned.model, pruned.variables, record)
            for line in (f"{name}:", *(f"  {line}" for line in pruned.lines())):
                tell(line)
        _require_made_so(run.path / RECORD, trained, own, ratio)
        if how.finetune is not None:
            finetune_pruned(run, how.finetune, given, console)
        made.append((name, ratio, run))
    return _timed(made, how, source, batch, tell)


def _timed(
    made: Sequence[tuple[str, float, RunDirectory]], how: HowToPrune, source: str | None, batch: int,
    tell: Callable[[str], None],
) -> list[Point]:  # fmt: skip
    networks = [load_run(run.path) for _, _, run in made]
    shape = networks[0].card.image_shape
    tell(f"Timing {len(networks)} networks in turns, {batch} images a batch.")
    speeds = time_in_turns([(each.model, each.variables) for each in networks], shape, batch=batch)
    points = []
    for (name, ratio, run), network, speed in zip(made, networks, speeds, strict=True):
        record = json.loads((run.path / RECORD).read_text())
        points.append(
            Point(
                name, ratio, network.model.config.num_blocks, record["after"]["params"], record["after"]["macs"],
                _tested(network, source), _finetuned(run, how), speed.seconds, batch / speed.seconds,
                speed.speedup,
            )
        )  # fmt: skip
    return points


def _tested(network: TrainedRun, source: str | None) -> float | None:
    if source is None and not network.was_trained_here:
        return None
    result = evaluate_run(network, "test", source=source)
    return float(result.metrics[network.task.headline])


def _finetuned(run: RunDirectory, how: HowToPrune) -> float | None:
    return None if how.finetune is None else _tested(load_run(run.path / FINETUNED), None)


def _require_made_so(path: Path, trained: TrainedRun, how: HowToPrune, ratio: float) -> None:
    """Reject a network that another command left here.

    Raises:
        RunError: it was made differently; the message says how.
    """
    known = json.loads(path.read_text())
    plain = json.loads(json.dumps({**dataclasses.asdict(how), "ratio": ratio, "pruned_from": str(trained.path)}))
    ignored = ("finetune", "rounds", "rewind")
    for field, value in plain.items():
        was = known.get(field, [] if field == "without_blocks" else None)  # older records lack this field
        if field not in ignored and was != value:
            raise RunError(f"{path.parent} was made with {field} {was}, not {value}: name another directory")


def write_tables(out: Path, points: Sequence[Point], title: str, metric: str = "accuracy") -> None:
    """Write the table as Markdown and CSV, and as a figure."""
    if not points:
        raise UsageError("there are no networks to compare")
    rows = [point.cells() for point in points]
    lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, *rows)]
    lines.insert(1, "|" + "---|" * len(COLUMNS))
    write_whole(out / "table.md", f"# {title}\n\n" + "\n".join(lines) + "\n")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_whole(out / "table.csv", text.getvalue())
    draw_points(out / "table.png", points, title, metric)


def draw_points(path: Path, points: Sequence[Point], title: str, metric: str = "accuracy") -> None:
    """Draw the headline metric against images per second, with the name of each network."""
    from resnet_jax.report.canvas import BLUE, VERMILION, headline, new_figure, save_figure
    from resnet_jax.report.depth_axes import percent_axis, plain

    figure = new_figure((7.2, 4.4))
    axes: Any = figure.subplots()
    plain(axes)
    for name, colour, mark, label in (
        ("pruned", VERMILION, "s", "pruned"),
        ("finetuned", BLUE, "o", "then fine-tuned"),
    ):
        known = [(point.images_per_second, value) for point in points if (value := getattr(point, name)) is not None]
        if known:
            axes.plot(*zip(*known, strict=True), mark, color=colour, label=label)
    for point in points:
        best = point.finetuned if point.finetuned is not None else point.pruned
        if best is not None:
            axes.annotate(f"{point.name}, x{point.speedup:.2f}", (point.images_per_second, best), xytext=(6, -11),
                          textcoords="offset points", fontsize=8.5)  # fmt: skip
    axes.margins(x=0.2, y=0.15)
    axes.set_xlabel("speed, images per second (networks timed in turns)")
    axes.set_ylabel(f"{metric_words(metric)} on the test split")
    if metric in SHARES:
        percent_axis(axes.yaxis)
    axes.set_title(headline(title, 7.2), loc="left", fontsize=12)
    axes.legend(frameon=False, fontsize=8.5)
    save_figure(figure, path)
