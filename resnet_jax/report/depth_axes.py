"""How a figure over depth is drawn: blocks on x, stages marked, gaps where there is nothing, legible at 600 blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.report.canvas import BLUE, GREEN, PURPLE, VERMILION, headline, new_figure, save_figure, short
from resnet_jax.report.numbers import power_of_ten
from resnet_jax.report.text import drawn

#: Colour of text, axes and grids; its own, so that a page can put the reader's in its place.
INK = "#0b0c0d"
#: Every line has a colour, a dash and a marker of its own: no cue stands alone.
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-", "marker": "o"},
    {"color": VERMILION, "linestyle": (0, (5, 1.6)), "marker": "s"},
    {"color": GREEN, "linestyle": (0, (1.4, 1.2)), "marker": "^"},
    {"color": PURPLE, "linestyle": (0, (6, 1.5, 1.2, 1.5)), "marker": "D"},
)
WIDTH = 5.0  # inches: one column of the page, and all of a phone's
FEW = 40
"""Up to so many blocks each has a marker; more get some markers along the line."""
LETTERS = 36
"""Of a label; the middle of a longer one is left out."""
BLOCK = "block (0 is nearest to the input)"


@dataclasses.dataclass(frozen=True)
class DepthAxis:
    """The x axis of everything that has one value per block.

    Attributes:
        stage: stage of each block, from 0, int ``(blocks,)``.
        names: of the stages; empty: stage 1, stage 2, ...
    """

    stage: np.ndarray
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.stage)

    @property
    def starts(self) -> list[int]:
        """Depth index of the first block of each stage."""
        return [0, *(np.flatnonzero(np.diff(self.stage)) + 1).tolist()]

    @property
    def labels(self) -> list[str]:
        """Names of the stages, in depth order."""
        stages = [int(self.stage[start]) for start in self.starts]
        return [self.names[stage] if self.names else f"stage {stage + 1}" for stage in stages]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a panel: its label and its values ``(points,)``; NaN leaves a gap.

    ``low`` and ``high``, if given, are the edges of a shaded band around it.
    """

    label: str
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        label: of the y axis.
        lines: at most four.
        scale: ``linear``, ``log`` or ``percent`` (a share from 0 to 1).
        level: where a thin line across says "here is nothing to see": 1 for a ratio, 0 for a cosine.
        limits: of the y axis.
    """

    label: str
    lines: Sequence[Line]
    scale: str = "linear"
    level: float | None = None
    limits: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class DepthFigure:
    """A figure and the words that go with it.

    Attributes:
        name: of its file; lower case and hyphens.
        title: headline.
        caption: what is shown and how to read it, in a sentence or two.
        figure: the matplotlib figure; it has no title in it.
        empty: whether no value could be drawn.
    """

    name: str
    title: str
    caption: str
    figure: Any
    empty: bool = False

    def save_png(self, folder: Path) -> Path:
        """Write ``folder/NAME.png``, on white and with its title."""
        path = folder / f"{self.name}.png"
        title = self.figure.suptitle(headline(self.title, self.figure.get_figwidth(), 11), fontsize=11, color=INK)
        save_figure(self.figure, path, dpi=150, facecolor="white")
        title.remove()
        self.figure._suptitle = None  # else the layout goes on keeping its room
        return path


def draw_depth(name: str, title: str, caption: str, depth: DepthAxis, panels: Sequence[Panel]) -> DepthFigure:
    """Draw panels below each other over a common axis of blocks.

    What a log axis cannot show is counted at the end of the caption.
    """
    figure, every_axes = _stacked(len(panels), [len(panel.lines) > 1 for panel in panels])
    x = np.arange(len(depth))
    for axes, panel in zip(every_axes, panels, strict=True):
        draw_panel(axes, x, panel)
        mark_stages(axes, depth, names=axes is every_axes[0])
    every_axes[-1].set_xlabel(BLOCK, color=INK)
    return DepthFigure(name, title, f"{caption}{_left_out(panels)}", figure, not any(map(_anything, panels)))


def draw_over(
    name: str, title: str, caption: str, x: np.ndarray, label: str, panels: Sequence[Panel], *, points: bool = False
) -> DepthFigure:
    """Draw panels over something else than depth, ``x`` (points,) called ``label``; as dots if ``points``."""
    from matplotlib.ticker import MaxNLocator

    figure, every_axes = _stacked(len(panels), [len(panel.lines) > 1 for panel in panels])
    for axes, panel in zip(every_axes, panels, strict=True):
        draw_panel(axes, x, panel, points=points)
        if np.issubdtype(np.asarray(x).dtype, np.integer):
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    every_axes[-1].set_xlabel(drawn(short(label, 2 * LETTERS)), color=INK)
    return DepthFigure(name, title, f"{caption}{_left_out(panels)}", figure, not any(map(_anything, panels)))


def draw_panel(axes: Any, x: np.ndarray, panel: Panel, *, points: bool = False) -> None:
    """Draw the lines of one panel and its y axis."""
    plain(axes)
    count = len(x)
    for index, (line, look) in enumerate(zip(panel.lines, LOOKS, strict=False)):
        values = _drawable(line.values, panel.scale)
        style = {
            **look,
            "linewidth": 1.5 if count <= FEW else 1.1,
            "markersize": 3.6,
            "label": drawn(short(line.label, LETTERS)),
        }
        if count > FEW and not points:  # markers at other places for each line
            step = max(count // 9, 1)
            style["markevery"] = (int(step * (0.25 + 0.22 * index)), step)
            style["linestyle"] = "-" if index == 0 else style["linestyle"]
        if points:
            style.update(linestyle="none", markersize=4.0)
        axes.plot(x, values, **style)
        if line.low is not None and line.high is not None:
            low, high = _drawable(line.low, panel.scale), _drawable(line.high, panel.scale)
            axes.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)
    more = "\n(log scale)" if panel.scale == "log" else ""
    axes.set_ylabel(f"{drawn(short(panel.label, LETTERS))}{more}", color=INK)
    if not _anything(panel):
        axes.set_yticks([])
        zero = all(np.all(np.asarray(line.values) == 0) for line in panel.lines)
        text = "0 everywhere" if zero else "nothing that can be drawn"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=INK)
        return
    if panel.level is not None:
        axes.axhline(panel.level, color=INK, linewidth=0.8, alpha=0.6, zorder=1)
    _scale(axes, panel)
    if len(panel.lines) > 1:
        rows = len(axes.figure.axes)
        above = 1 + 0.25 * rows / axes.figure.get_figheight()  # clear of the names of the stages
        columns = 2 if sum(len(line.label) for line in panel.lines) > 44 else len(panel.lines)
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, above), borderaxespad=0, ncols=columns, frameon=False,
            fontsize=8.5, labelcolor=INK, handlelength=2.4, columnspacing=1.1, handletextpad=0.6,
        )  # fmt: skip


def mark_stages(axes: Any, depth: DepthAxis, *, names: bool = True) -> None:
    """Draw a line between stages, their names above, and whole numbers on the x axis."""
    from matplotlib.ticker import MaxNLocator

    count = len(depth)
    axes.set_xlim(-0.5, count - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    for start in depth.starts[1:]:
        axes.axvline(start - 0.5, color=INK, linewidth=0.8, alpha=0.45, linestyle=(0, (2, 2)), zorder=1)
    if not names:
        return
    ends = [*depth.starts[1:], count]
    labels = depth.labels
    places = list(zip(depth.starts, ends, labels, strict=True))
    fits = all(
        (end - start) / count > 0.016 * len(text) for start, end, text in places
    )  # share of the axis a letter takes
    for start, end, text in places:
        shown = text if fits else text.removeprefix("stage ")
        axes.text(
            (start + end - 1) / 2, 1.01, drawn(short(shown, 24)), transform=axes.get_xaxis_transform(), ha="center",
            va="bottom", fontsize=8.5, color=INK, alpha=0.8, clip_on=False,
        )  # fmt: skip
    if not fits:
        axes.text(-0.01, 1.01, "stage", transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color=INK)


def plain(axes: Any) -> None:
    """Take what only decorates from the axes, and colour the rest as text."""
    axes.patch.set_visible(False)
    axes.grid(color=INK, alpha=0.14, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK, labelsize=9)


def _anything(panel: Panel) -> bool:
    """Return whether a panel has a value that can be drawn."""
    return any(np.isfinite(_drawable(line.values, panel.scale)).any() for line in panel.lines)


def _stacked(rows: int, legends: Sequence[bool]) -> tuple[Any, list[Any]]:
    height = {1: 2.8, 2: 4.4}.get(rows, 2.1 * rows) + 0.25 * sum(legends)
    figure = new_figure((WIDTH, height))
    return figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


def _drawable(values: np.ndarray, scale: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    drawn = np.isfinite(values) & (values > 0 if scale == "log" else True)
    return np.where(drawn, values, np.nan)


def _scale(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    if panel.scale == "log":
        edges = [edge for line in panel.lines for edge in (line.values, line.low, line.high) if edge is not None]
        log_scale(axes.yaxis, np.concatenate([_drawable(edge, "log") for edge in edges]), panel.level)
    elif panel.scale == "percent":
        percent_axis(axes.yaxis)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)


def percent_axis(axis: Any) -> None:
    """Write shares from 0 to 1 as percent, with a range of a tenth at least: small differences shall look small."""
    from matplotlib.ticker import FuncFormatter

    low, high = axis.get_view_interval()
    if high - low < 0.1:
        middle = (low + high) / 2
        low, high = middle - 0.05, middle + 0.05
    axis.axes.set_ylim(max(low, -0.03), min(high, 1.03))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %" if -1e-9 < value < 1 + 1e-9 else ""))


def log_scale(axis: Any, values: np.ndarray, level: float | None = None) -> None:
    """Make a log axis whose labels can be read whether the values span a factor of 2 or 30 powers of ten.

    Values that hardly differ get a range of a factor of 4 all the same: small differences shall look small.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    seen = values[np.isfinite(values)]
    if level is not None:
        seen = np.append(seen, level)
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.5, 2.0)
    low, high = max(low, 1e-280), max(high, 1e-280)  # else the margins underflow
    if high < 4 * low:
        middle = np.sqrt(low) * np.sqrt(high)
        low, high = middle / 2, middle * 2
    axes, decades = axis.axes, np.log10(high) - np.log10(low)
    margin = 10 ** (0.05 * decades)
    scale = axes.set_yscale if axis is axes.yaxis else axes.set_xscale
    scale("log")
    limits = axes.set_ylim if axis is axes.yaxis else axes.set_xlim
    limits(low / margin, high * margin)
    if decades < 2.2:
        subs = (1.0, 2.0, 5.0) if decades > 0.9 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(numticks=7))
        axis.set_minor_locator(
            LogLocator(subs=(2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0), numticks=200) if decades < 5 else NullLocator()
        )
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axis.set_minor_formatter(NullFormatter())


def _left_out(panels: Sequence[Panel]) -> str:
    """Return a sentence about values that have no place on their axis, if there are any."""
    notes = []
    for panel in panels:
        for line in panel.lines:
            values = np.asarray(line.values, np.float64)
            kinds = {"infinite": np.isinf(values)}
            if panel.scale == "log":
                kinds["zero or negative"] = values <= 0
                if not (values < 0).any():
                    kinds["zero"] = kinds.pop("zero or negative")
            name = line.label or panel.label
            for kind, where in kinds.items():
                if where.any():
                    amount = "everywhere" if where.all() else f"at {int(where.sum())} of {len(values)}"
                    notes.append(f"{name} ({kind} {amount})")
    return f" Not drawn: {', '.join(notes)}." if notes else ""
