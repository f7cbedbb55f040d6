"""The files of a comparison: one page, its figures, and every value as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_jax.errors import RunError, UsageError
from resnet_jax.report.compare_figures import STYLES, Curves, draw_curves
from resnet_jax.report.depth_axes import DepthFigure
from resnet_jax.report.depth_page import Page, Section, Table, write_page
from resnet_jax.runs.compare import Comparison, said
from resnet_jax.runs.compare_table import columns, curves_csv, measured, runs_csv, sentences
from resnet_jax.runs.compared_run import Point
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.paths import user_path
from resnet_jax.tasks.task import SHARES

RUNS, CURVES = "runs.csv", "curves.csv"

_MEANING = {
    "runs": "run directories of this configuration",
    "images/s": "while training, mean of the runs",
    "state": "done: all steps; unfinished: no result was written",
}


def write_comparison(found: Comparison, folder: Path) -> Path:
    """Write report.html, its figures, runs.csv and curves.csv; return the page's path.

    Raises:
        UsageError: if the folder is a run directory, which keeps its own files.
        RunError: if it cannot be written.
    """
    folder = user_path(folder)
    if RunDirectory(folder).config.is_file():
        raise UsageError(f"{folder} is a run directory: give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RUNS, runs_csv(found))
        write_whole(folder / CURVES, curves_csv(found))
    except OSError as error:
        raise RunError(f"cannot write the comparison in {folder}: {error.strerror or error}") from error
    return write_page(page(found), folder)


def page(found: Comparison) -> Page:
    """Return the page of a comparison."""
    runs, name = found.runs, found.metric.replace("_", " ")
    kind = "higher" if runs[0].mode == "max" else "lower"
    facts = {
        "runs": f"{len(runs)} in {len(found.rows)} configurations",
        "task": runs[0].task,
        "compared": f"{measured(found)} ({kind} is better)",
        "values": f"{RUNS}, {CURVES}",
    }
    table = columns(found)
    tables = [Table("Runs", table, {key: text for key, text in _MEANING.items() if key in table}, unfolded=True)]
    if found.differing and len(found.rows) > 1:
        options = [*found.rows[0].options]
        differs = {"option": options} | {row.label: [said(row.options[key]) for key in options] for row in found.rows}
        tables.append(Table("What differs in the configurations", differs))
    each = {
        "run": [str(run.path) for run in runs],
        "configuration": [row.label for row in found.rows for _ in row.runs],
        "seed": [str(run.config.seed) for run in runs],
        f"test {name}": np.array([np.nan if run.test is None else run.test for run in runs]),
        f"best validation {name}": np.array([np.nan if run.best is None else run.best for run in runs]),
        "state": [run.state for run in runs],
    }
    tables.append(Table("Every run", each))
    about = (
        "Runs of the same configuration but for their seed are one row: mean ± standard deviation over n seeds. A "
        "difference is tested by pairs where two rows have the same seeds (t-test of the differences), else by "
        "Welch's test; of fewer than two seeds there is none."
    )
    sections = [Section("Results", about, tables=tables), Section("Curves", figures=_figures(found))]
    labels = [row.label for row in found.rows]
    title = f"{len(labels)} configurations" if len(labels) > 1 else labels[0]
    summary = [f"{text}." for text in (*sentences(found), *found.notes)]
    summary = summary or [f"{title}: there is nothing beside it."]
    return Page(f"{title}: {measured(found)}", facts, summary, sections)


def _figures(found: Comparison) -> list[DepthFigure]:
    """Return the curves, six configurations per figure."""
    name = found.metric.replace("_", " ")
    figures = []
    chunks = [found.rows[start : start + len(STYLES)] for start in range(0, len(found.rows), len(STYLES))]
    band = " The band is one standard deviation over seeds, up to the step that all of them have reached."
    for number, rows in enumerate(chunks, 1):
        ending, part = ("", "") if len(chunks) == 1 else (f"-{number}", f", part {number} of {len(chunks)}")
        more = band if any(len(row.runs) > 1 for row in rows) else ""
        figures.append(
            draw_curves(
                f"training-loss{ending}",
                f"Training loss{part}",
                f"Mean loss of each epoch while learning (of single batches before the second epoch ends).{more}",
                "loss (log scale)",
                [Curves(row.label, [_arrays(run.training) for run in row.runs]) for row in rows],
                scale="log",
            )
        )
        figures.append(
            draw_curves(
                f"validation{ending}",
                f"Validation {name}{part}",
                f"On the validation images.{more}",
                f"validation {name}",
                [Curves(row.label, [_arrays(run.validation) for run in row.runs]) for row in rows],
                scale="percent" if found.metric in SHARES else "linear",
            )
        )
    return figures


def _arrays(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([step for step, _ in points], np.int64), np.array([value for _, value in points], np.float64)
