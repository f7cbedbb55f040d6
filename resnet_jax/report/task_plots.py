"""The picture of a test of several tasks: a confusion or a scatter of each, beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.report.canvas import BLUE, GREY, headline as fitted, new_figure, save_figure, short
from resnet_jax.report.depth_axes import percent_axis
from resnet_jax.report.plots import COLOUR_AND_COUNT
from resnet_jax.report.text import drawn

#: Panels beside each other at most; classes that are named; points of a scatter.
COLUMNS, NAMED, POINTS = 3, 20, 5000


def plot_task_rows(
    rows: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]], path: Path, *, title: str
) -> None:
    """Draw what was kept of every example of a test.

    Args:
        rows: ``TASK/label`` and ``TASK/prediction`` of every task: classes (N,), or values (N, M), of which the first
            is drawn; and ``TASK/there``, whether an example has a target, bool (N,).
        names: task -> its classes.
        path: PNG to write.
        title: headline.
    """
    tasks = [key.removesuffix("/prediction") for key in rows if key.endswith("/prediction")]
    if not tasks:
        return
    columns = min(len(tasks), COLUMNS)
    lines = -(-len(tasks) // columns)
    size = (4.2 * columns, 4.3 * lines)
    figure = new_figure(size)
    every = list(np.ravel(figure.subplots(lines, columns)))
    for axes in every[len(tasks) :]:
        axes.set_axis_off()
    matrices, image = [], None
    for axes, task in zip(every, tasks, strict=False):
        there = rows[f"{task}/there"]
        true, said = rows[f"{task}/label"][there], rows[f"{task}/prediction"][there]
        if true.ndim == 1:
            image = _confusion(axes, true, said, names.get(task, ()), task)
            matrices.append(axes)
        else:
            _scatter(axes, true[:, 0], said[:, 0], task)
    if matrices:
        bar = figure.colorbar(image, ax=matrices[-1], fraction=0.046, label=COLOUR_AND_COUNT)
        percent_axis(bar.ax.yaxis)
    figure.suptitle(fitted(title, size[0], 11), fontsize=11)
    save_figure(figure, path)


def _confusion(axes: Any, true: np.ndarray, said: np.ndarray, names: Sequence[str], task: str) -> Any:
    classes = max(len(names), int(max(true.max(initial=0), said.max(initial=0))) + 1)
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (true, said), 1)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    if classes <= NAMED:
        shown = [drawn(short(str(names[k]) if k < len(names) else str(k), 12)) for k in range(classes)]
        axes.set_xticks(range(classes), shown)
        axes.set_yticks(range(classes), shown)
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    right, total = int(np.trace(matrix)), int(matrix.sum())
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(drawn(f"{task}: {right:,} of {total:,} correct"), fontsize=10)
    return image


def _scatter(axes: Any, true: np.ndarray, said: np.ndarray, task: str) -> None:
    every = max(1, -(-len(true) // POINTS))
    x, y = true[::every].astype(np.float64), said[::every].astype(np.float64)
    seen = np.isfinite(y)
    ends = (min(x.min(), y[seen].min(initial=np.inf)), max(x.max(), y[seen].max(initial=-np.inf)))
    axes.plot(ends, ends, color=GREY, linewidth=1.0, label="predicted = true")
    axes.plot(x[seen], y[seen], ".", color=BLUE, markersize=4.0, alpha=0.5)
    axes.set(xlabel="true value", ylabel="predicted value")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(drawn(task), fontsize=10)
