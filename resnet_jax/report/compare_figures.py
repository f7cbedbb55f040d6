"""Curves of several runs in one figure: a line a configuration, in a band of one standard deviation over its seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_jax.report.canvas import AMBER, SKY, new_figure, short
from resnet_jax.report.depth_axes import INK, LETTERS, LOOKS, DepthFigure, log_scale, percent_axis, plain
from resnet_jax.report.text import drawn

#: Configurations of one figure, each with a colour, a dash and a marker of its own.
STYLES: tuple[dict[str, Any], ...] = (
    *LOOKS,
    {"color": AMBER, "linestyle": (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)), "marker": "v"},
    {"color": SKY, "linestyle": (0, (8, 1.5)), "marker": "P"},
)
MARKED = 30
"""Up to so many points each has a marker; more get some along the line."""
SIZE = (6.4, 3.6)


@dataclasses.dataclass(frozen=True)
class Curves:
    """One configuration.

    Attributes:
        label: its name.
        runs: (steps, values) of each seed, (points,) each, steps rising; NaN where a value was not finite.
    """

    label: str
    runs: Sequence[tuple[np.ndarray, np.ndarray]]

    def band(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return steps, mean and sample standard deviation, (points,) each, over the steps that every seed has.

        Where seeds have values at different steps, those between are interpolated. Of one seed the deviation is 0.
        """
        runs = [(steps, values) for steps, values in self.runs if len(steps)]
        if not runs:
            return np.empty(0), np.empty(0), np.empty(0)
        first, last = max(steps[0] for steps, _ in runs), min(steps[-1] for steps, _ in runs)
        grid = np.unique(np.concatenate([steps for steps, _ in runs]))
        grid = grid[(grid >= first) & (grid <= last)]
        each = np.stack(
            [
                values[np.searchsorted(steps, grid)] if np.isin(grid, steps).all() else np.interp(grid, steps, values)
                for steps, values in runs
            ]
        )
        spread = each.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(grid))
        return grid, each.mean(axis=0), spread


def draw_curves(
    name: str, title: str, caption: str, label: str, curves: Sequence[Curves], *, scale: str = "linear"
) -> DepthFigure:
    """Draw up to six configurations over steps.

    Args:
        name: of the figure's file.
        title: headline.
        caption: what is shown.
        label: of the y axis.
        curves: those without a point are left out.
        scale: ``linear``, ``log`` or ``percent`` (a share from 0 to 1).

    Raises:
        ValueError: more than six.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if len(curves) > len(STYLES):
        raise ValueError(f"{len(curves)} configurations in one figure: at most {len(STYLES)} can be told apart")
    figure = new_figure((SIZE[0], SIZE[1] + 0.2 * len(curves)))
    axes: Any = figure.subplots()
    plain(axes)
    seen = []
    for index, (curve, style) in enumerate(zip(curves, STYLES, strict=False)):
        steps, mean, spread = curve.band()
        mean, low, high = (_drawable(values, scale) for values in (mean, mean - spread, mean + spread))
        if not np.isfinite(mean).any():
            continue
        look = {**style, "linewidth": 1.5, "markersize": 3.6, "label": drawn(short(curve.label, 2 * LETTERS))}
        if len(steps) > MARKED:
            every = max(len(steps) // 8, 1)
            look["markevery"] = (int(every * index / len(STYLES)), every)
        axes.plot(steps, mean, **look)
        if len(curve.runs) > 1:
            low = np.where(np.isfinite(low), low, mean)  # on a log axis a band that reaches 0 ends at its line
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
        seen += [mean, low, high]
    axes.set_xlabel("optimizer updates", color=INK)
    axes.set_ylabel(drawn(short(label, LETTERS)), color=INK)
    if not seen:
        return DepthFigure(name, title, caption, figure, True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if scale == "log":
        log_scale(axes.yaxis, np.concatenate(seen))
    elif scale == "percent":
        percent_axis(axes.yaxis)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.01), borderaxespad=0, frameon=False, fontsize=8.5, labelcolor=INK,
        handlelength=3.2,
    )  # fmt: skip
    return DepthFigure(name, title, caption, figure, False)


def _drawable(values: np.ndarray, scale: str) -> np.ndarray:
    shown = np.isfinite(values) & (values > 0 if scale == "log" else True)
    return np.where(shown, values, np.nan)
