"""The figure of an ablation: a learning curve per cell, the mean over seeds in a band of one standard deviation.

Up to :data:`MAX_TOGETHER` cells share one panel and are named at the end of their line; more get a panel each, where
the others are drawn grey. Seeds that diverged are no part of mean and band: each is a dotted line to a cross. Colours
are Okabe and Ito's, which people with any common colour vision can tell apart.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.report.canvas import BLUE, GREY, PALETTE, VERMILION, headline, new_figure, save_figure, short
from resnet_jax.report.depth_axes import percent_axis
from resnet_jax.report.text import drawn, visible

MAX_TOGETHER = len(PALETTE)
COLUMNS = 3
#: Letters of a cell's name in a line, and in all; the middle of a longer one is left out.
LINE, MAX_LETTERS = 40, 160


@dataclasses.dataclass(frozen=True)
class CellCurves:
    """What is drawn of a cell.

    Attributes:
        label: its name.
        measure: what the curves show.
        curves: seed -> (epoch, value) in order, also of seeds that diverged, up to there.
        diverged: seed -> epoch where it diverged.
        stuck: seeds that ended no better than chance; they are part of mean and band.
        share: whether the values are shares of 1, drawn in percent.
    """

    label: str
    measure: str
    curves: Mapping[int, Sequence[tuple[float, float]]]
    diverged: Mapping[int, float]
    stuck: frozenset[int] = frozenset()
    share: bool = True

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len({*self.curves, *self.diverged})

    @property
    def epochs(self) -> list[float]:
        """Where anything is drawn."""
        return [*(epoch for points in self.curves.values() for epoch, _ in points), *self.diverged.values()]

    @property
    def note(self) -> str:
        """Label as it is drawn, and how many seeds diverged or are stuck."""
        label = "\n".join(drawn(line) for line in textwrap.wrap(visible(short(self.label, MAX_LETTERS)), LINE))
        counts = ((self.diverged, "diverged"), (self.stuck, "stuck"))
        failed = ", ".join(f"{len(seeds)} of {self.seeds} {how}" for seeds, how in counts if seeds)
        return f"{label}\n{failed}" if failed else label

    def band(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return epochs, mean and sample standard deviation over the seeds that did not diverge, (points,) each."""
        whole = [dict(points) for seed, points in self.curves.items() if seed not in self.diverged]
        epochs = sorted(set.intersection(*(set(points) for points in whole))) if whole else []
        values = np.array([[points[epoch] for epoch in epochs] for points in whole])
        if not epochs:
            return np.empty(0), np.empty(0), np.empty(0)
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(epochs))
        return np.array(epochs), values.mean(axis=0), spread


def plot_ablation(cells: Sequence[CellCurves], path: Path, *, title: str) -> None:
    """Draw the learning curves of the cells.

    Args:
        cells: in the order of the table; may be none.
        path: PNG to write.
        title: headline.
    """
    together = len(cells) <= MAX_TOGETHER
    columns = 1 if together else COLUMNS
    rows = 1 if together else -(-len(cells) // columns)
    size = (9.0, 5.0) if together else (3.0 * columns, 2.1 * rows + 0.8)
    figure = new_figure(size, dpi=130)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    last = max((epoch for cell in cells for epoch in cell.epochs), default=0.0)
    if cells:
        panels[0].set_xlim(0, 1.03 * last)  # all share it
    if together:
        _draw_together(panels[0], cells)
    else:
        for index, axes in enumerate(panels):
            if index < len(cells):
                _draw_alone(axes, cells, index)
                axes.tick_params(labelbottom=index + columns >= len(cells))
            else:
                axes.set_visible(False)
    for axes in panels:
        if cells:
            _scale(axes, last, share=all(cell.share for cell in cells))
        else:
            axes.set(xticks=[], yticks=[])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    measure = " or ".join(dict.fromkeys(cell.measure for cell in cells)) or "nothing trained yet"
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel(drawn(short(measure, 60)), fontsize=10)
    said = f"{title}: {_spread(cells)}" + ("" if together else "; gray: the other cells")
    figure.suptitle(headline(said, size[0], 11), fontsize=11)
    save_figure(figure, path)


def _spread(cells: Sequence[CellCurves]) -> str:
    """Return what line and band are."""
    seeds = sorted({cell.seeds for cell in cells})
    if not seeds or seeds == [1]:
        return "one seed"
    return f"mean and one standard deviation of {'-'.join(str(count) for count in sorted({seeds[0], seeds[-1]}))} seeds"


def _scale(axes: Any, last: float, *, share: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    if share:
        percent_axis(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=last >= 3, steps=[1, 2, 5, 10], min_n_ticks=1))


def _draw_together(axes: Any, cells: Sequence[CellCurves]) -> None:
    ends = []
    for cell, color in zip(cells, PALETTE, strict=False):
        _draw_cell(axes, cell, color)
        epochs, mean, _ = cell.band()
        if len(epochs):
            ends.append((epochs[-1], mean[-1], cell.note, color))
        else:
            last = max((points[-1] for points in cell.curves.values()), default=(max(cell.diverged.values()), 0.0))
            ends.append((*last, cell.note, color))
    if not ends:
        return
    low, high = axes.get_ylim()
    line = (high - low) / 26  # height of a line of text on this figure
    places = spread_labels([end[1] for end in ends], [line * (end[2].count("\n") + 1) for end in ends])
    right = max(end[0] for end in ends)
    left = axes.get_xlim()[0]
    for (x, y, note, color), place in zip(ends, places, strict=True):
        axes.annotate(
            note,
            xy=(x, y),
            xytext=(right + 0.03 * (right - left), place),
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "relpos": (0.0, 0.5), "shrinkB": 0},
        )
    axes.set_ylim(min(low, min(places) - line), max(high, max(places) + line))


def spread_labels(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Move labels apart as little as a single sweep can, so that none overlaps; their order stays.

    Args:
        wanted: centres.
        heights: of the labels.

    Returns:
        Centres, in the order given.

    >>> spread_labels([0.0, 0.1, 5.0], [1.0, 1.0, 1.0])
    [-0.45, 0.55, 5.0]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    groups: list[tuple[list[int], float]] = []  # labels that touch, and the bottom of their stack
    for index in order:
        members, bottom = [index], wanted[index] - heights[index] / 2
        while groups and groups[-1][1] + sum(heights[i] for i in groups[-1][0]) > bottom:
            below, _ = groups.pop()
            members = [*below, *members]
            bottom = _best_bottom(members, wanted, heights)
        groups.append((members, bottom))
    places = [0.0] * len(wanted)
    for members, bottom in groups:
        for index in members:
            places[index] = round(bottom + heights[index] / 2, 12)
            bottom += heights[index]
    return places


def _best_bottom(members: Sequence[int], wanted: Sequence[float], heights: Sequence[float]) -> float:
    """Return where a stack begins whose labels are on average where they are wanted."""
    offset, shifts = 0.0, []
    for index in members:
        shifts.append(wanted[index] - (offset + heights[index] / 2))
        offset += heights[index]
    return sum(shifts) / len(shifts)


def _draw_alone(axes: Any, cells: Sequence[CellCurves], index: int) -> None:
    for other in (*cells[:index], *cells[index + 1 :]):
        epochs, mean, _ = other.band()
        axes.plot(epochs, mean, color=GREY, linewidth=0.7, alpha=0.35)
    cell = cells[index]
    _draw_cell(axes, cell, BLUE)
    axes.set_title(cell.note, fontsize=9, loc="left", color=VERMILION if cell.diverged or cell.stuck else "black")


def _draw_cell(axes: Any, cell: CellCurves, color: str) -> None:
    epochs, mean, spread = cell.band()
    if len(epochs):
        axes.plot(epochs, mean, color=color, linewidth=1.8, marker="o" if len(epochs) == 1 else None)
        axes.fill_between(epochs, mean - spread, mean + spread, color=color, alpha=0.18, linewidth=0)
    for seed, epoch in cell.diverged.items():
        points = [*cell.curves.get(seed, ())]
        height = points[-1][1] if points else 0.0
        x, y = [*(x for x, _ in points), epoch], [*(y for _, y in points), height]
        axes.plot(x, y, color=color, linewidth=0.9, linestyle=":")
        axes.plot(epoch, height, marker="x", color=color, markersize=7, markeredgewidth=1.8)
