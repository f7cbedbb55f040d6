"""task_gradients.jsonl: the cosine between the gradients of every two tasks at every block, while a network trains.

The first line names blocks and pairs, ``{"blocks": [...], "stage": [...], "pairs": [["digit", "parity"], ...]}``; every
other one is a step, ``{"step": 41, "task_cosine": [[0.31, ...], ...]}``, a row of blocks for each pair.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import DamagedError, UsageError
from resnet_jax.instrument.probing import is_due
from resnet_jax.report.rows_file import RowsFile, check_step, read_rows
from resnet_jax.report.steady_file import Warn
from resnet_jax.runtime.events import NO_EVENTS, EventLog
from resnet_jax.training.observers import Observer

_log = logging.getLogger(__name__)

#: Panels beside each other at most.
COLUMNS = 3
NAME = "task_cosine"


class TaskGradientsFile(Observer):
    """Writes a row where a step was probed, four digits a number; one that is not finite is written as null.

    Args:
        path: the file; rows after ``start_step`` are dropped first.
        names: of the blocks.
        stages: of the blocks.
        pairs: of the tasks.
        start_step: updates done when this session begins.
        every: steps between rows; the first step is one.
        records: what the checkpoint that the session goes on from knows (:attr:`RunFacts.records`).
        warn: is told, in a line, what is wrong with the file.
        events: likewise.

    Raises:
        OSError: the file cannot be written at all; with its path.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        stages: np.ndarray,
        pairs: Sequence[tuple[str, str]],
        *,
        start_step: int,
        every: int,
        records: Mapping[str, Any] | None = None,
        warn: Warn = _log.warning,
        events: EventLog = NO_EVENTS,
    ) -> None:
        self._every, self._name = every, path.name
        self._file = RowsFile(
            path,
            functools.partial(check_row, blocks=len(names), pairs=len(pairs)),
            start_step=start_step,
            position=(records or {}).get(path.name),
            header={"blocks": list(names), "stage": stages.tolist(), "pairs": [list(pair) for pair in pairs]},
            warn=warn,
            events=events,
        )

    def on_task_gradients(self, step: int, cosines: np.ndarray, member: int = 0) -> None:
        """Write the row of ``step``, from 1, if it is due; of a run alone, that is of member 0."""
        if is_due(step - 1, self._every):
            rows = [[round(value, 4) if math.isfinite(value) else None for value in row] for row in cosines.T.tolist()]
            self._file.write({"step": step, NAME: rows}, step)

    def position(self) -> Mapping[str, Any]:
        """Return how far the file has come."""
        return {self._name: self._file.position()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_row(row: dict[str, Any], blocks: int | None = None, pairs: int | None = None) -> str | None:
    """Return what is wrong with a row, or with the header; None if nothing is.

    Args:
        row: one line.
        blocks: how many the network has; None: any number.
        pairs: likewise, of tasks.
    """
    if "blocks" in row:
        names, stages, found = row["blocks"], row.get("stage"), row.get("pairs")
        if not (isinstance(names, list) and isinstance(stages, list) and len(stages) == len(names)):
            return "has no stage for every block"
        if not (isinstance(found, list) and found and all(isinstance(pair, list) and len(pair) == 2 for pair in found)):
            return "has no pairs of tasks"
        return None
    rows = row.get(NAME)
    if not isinstance(rows, list) or not all(isinstance(each, list) for each in rows):
        return "has no cosines"
    if not all(value is None or type(value) in (int, float) for each in rows for value in each):
        return "has a cosine that is no number"
    if (pairs is not None and len(rows) != pairs) or any(blocks is not None and len(each) != blocks for each in rows):
        return f"is not of {pairs} pairs of tasks and {blocks} blocks"
    return check_step(row)


@dataclasses.dataclass(frozen=True)
class TaskGradients:
    """The cosine between the gradients of every two tasks, over a run.

    Attributes:
        names: of the blocks, in depth order.
        stage: of each block, from 0, int (blocks,).
        pairs: of the tasks.
        steps: of the rows, from 1, int (rows,).
        cosine: (rows, pairs, blocks); NaN where a gradient was 0.
    """

    names: tuple[str, ...]
    stage: np.ndarray
    pairs: tuple[tuple[str, str], ...]
    steps: np.ndarray
    cosine: np.ndarray


def read_task_gradients(path: Path) -> TaskGradients:
    """Read a task_gradients.jsonl. Lines that are no rows are left out, and named in a warning.

    Raises:
        UsageError: there is none.
        DamagedError: its first line is missing or of other blocks or pairs than the rows.
    """
    rows = read_rows(path, check_row)
    if not rows:
        raise UsageError(f"{path} has no gradients of tasks: train several (task.heads) with train.depth_every")
    header, rows = rows[0], rows[1:]
    if "blocks" not in header:
        raise DamagedError(f"{path} is damaged: its first line does not name the blocks")
    shape = len(header["pairs"]), len(header["blocks"])
    for row in rows:
        if "blocks" in row or len(row[NAME]) != shape[0] or any(len(each) != shape[1] for each in row[NAME]):
            raise DamagedError(f"{path} is damaged: a later line is not of the blocks and pairs that its first names")
    cosine = np.asarray([row[NAME] for row in rows], np.float64).reshape(len(rows), *shape)
    steps = np.asarray([row["step"] for row in rows], np.int64)
    pairs = tuple((str(one), str(other)) for one, other in header["pairs"])
    return TaskGradients(tuple(header["blocks"]), np.asarray(header["stage"]), pairs, steps, cosine)


def draw_task_gradients(found: TaskGradients, path: Path, *, title: str) -> None:
    """Draw the cosines over depth and time, a panel for each pair of tasks: blue where they agree, orange where not.

    Args:
        found: as :func:`read_task_gradients` gives it.
        path: PNG to write.
        title: headline.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    from resnet_jax.report.canvas import BLUE, VERMILION, headline, new_figure, save_figure
    from resnet_jax.report.depth_axes import BLOCK, INK, DepthAxis, mark_stages, plain
    from resnet_jax.report.depth_instruments import edges
    from resnet_jax.report.text import drawn

    columns = min(len(found.pairs), COLUMNS)
    lines = -(-len(found.pairs) // columns)
    size = (3.4 * columns + 0.8, 2.7 * lines + 0.6)
    figure, depth = new_figure(size), DepthAxis(found.stage)
    colours = LinearSegmentedColormap.from_list("opposed", [VERMILION, "white", BLUE])
    every = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    image = None
    for place, axes in enumerate(every.flat):
        if place >= len(found.pairs):
            axes.set_axis_off()
            continue
        values = found.cosine[:, place]
        plain(axes)
        axes.grid(visible=False)
        axes.set_facecolor("#DDDDDD")  # where there is no cosine
        axes.patch.set_visible(True)
        image = axes.pcolormesh(
            np.arange(len(depth) + 1) - 0.5,
            edges(found.steps.astype(np.float64)),
            np.ma.masked_invalid(values),
            cmap=colours,
            vmin=-1.0,
            vmax=1.0,
            rasterized=True,
            linewidth=0,
        )
        mark_stages(axes, depth)
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 0.0))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        seen = values[np.isfinite(values)]
        mean = f": mean {seen.mean():+.2f}" if len(seen) else ""
        axes.set_title(drawn(f"{' and '.join(found.pairs[place])}{mean}"), fontsize=9.5, color=INK, pad=16)
        if place % columns == 0:
            axes.set_ylabel("training step", color=INK)
        if place + columns >= len(found.pairs):
            axes.set_xlabel(BLOCK if columns == 1 else "block", color=INK)
            axes.tick_params(labelbottom=True)
    bar = figure.colorbar(image, ax=every, pad=0.02, aspect=30)
    bar.set_label("cosine of the gradients\n(blue: agree, orange: oppose)", color=INK)
    bar.outline.set_edgecolor(INK)
    figure.suptitle(headline(title, size[0], 11), fontsize=11, color=INK)
    save_figure(figure, path, dpi=150, facecolor="white")
