"""The figures of a search: parallel coordinates, importances, and the metric by trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.report.canvas import BLUE, GREY, VERMILION, headline as fitted, new_figure, save_figure, short as cut
from resnet_jax.report.text import drawn
from resnet_jax.search.halving import Mode, rank
from resnet_jax.search.result import short
from resnet_jax.search.space import Dimension, Kind
from resnet_jax.search.study import Trial
from resnet_jax.tasks.task import SHARES, metric_words

_LIGHT = "#BBBBBB"


def draw_parallel(
    trials: Sequence[Trial], dimensions: Sequence[Dimension], headline: str, best: Trial | None, path: Path, title: str
) -> None:
    """Draw one line per trial through an axis for each option and one for the metric.

    Full-length trials are colored by the metric, stopped ones are gray, diverged ones are dotted and end before the
    metric; the best is thick.

    Raises:
        ValueError: if nothing was measured.
    """
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    shown = [one for one in trials if one.state != "failed"]
    values = [one.value for one in shown if one.value is not None]
    if not values:
        raise ValueError("no trial was measured")
    whole = [one.value for one in shown if one.state == "complete" and one.value is not None] or values
    columns = [_Column.of(one, [trial.values.get(one.option) for trial in shown]) for one in dimensions]
    low, high = _shown(values, whole)
    count = len(columns)
    size = (max(2.0 + 1.7 * count, 5.5), 4.6)
    figure = new_figure(size)
    axes = figure.subplots()
    colours = colormaps["viridis"]
    span = (max(whole) - min(whole)) or 1.0
    for one in sorted(shown, key=lambda one: (one is best, one.state == "complete", one.number)):
        points = [column.place(one.values.get(column.option), one.number) for column in columns]
        if one.value is not None:
            points.append(min(max((one.value - low) / (high - low), 0.0), 1.0))
        line: dict[str, Any] = {"color": _LIGHT, "linewidth": 0.7, "alpha": 0.7}
        if one.state == "diverged":
            line = {"color": GREY, "linewidth": 0.7, "linestyle": ":", "alpha": 0.8}
        elif one.state == "complete" and one.value is not None:
            line = {"color": colours((one.value - min(whole)) / span), "linewidth": 1.2, "alpha": 0.9}
        if best is not None and one.number == best.number:
            line = {"color": VERMILION, "linewidth": 2.6}
        axes.plot(range(len(points)), points, **line)
    for place, column in enumerate(columns):
        axes.axvline(place, color="black", linewidth=0.8)
        for at, label in column.ticks:
            axes.annotate(drawn(label), (place, at), xytext=(-4, 0), textcoords="offset points", ha="right",
                          va="center", fontsize=8, bbox=_HALO)  # fmt: skip
    axes.axvline(count, color="black", linewidth=0.8)
    for at in np.linspace(0, 1, 5):
        value = low + at * (high - low)
        beyond = "≤ " if at == 0 and min(values) < low else "≥ " if at == 1 and max(values) > high else ""
        label = beyond + (f"{100 * value:.1f}" if headline in SHARES else f"{value:.3g}")
        axes.annotate(label, (count, at), xytext=(5, 0), textcoords="offset points", ha="left", va="center", fontsize=8)
    unit = ", %" if headline in SHARES else ""
    names = [_two_lines(column.option) for column in columns] + [f"validation\n{metric_words(headline)}{unit}"]
    axes.set_xticks(range(count + 1), names, fontsize=9)
    axes.set_xlabel("options, each with its own scale, and at the right the metric", fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.45, count + 0.35)
    axes.set_ylim(-0.04, 1.04)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    done = sum(one.state == "complete" for one in shown)
    said = f"{title}: a line for each of {len(shown)} trials, and the option values that it tried"
    axes.set_title(fitted(said, size[0], 11), fontsize=11)
    handles: list[Any] = [Line2D([], [], color=VERMILION, linewidth=2.6, label="best")] if best is not None else []
    if done:
        look = {"color": colours(0.6), "linewidth": 1.2, "label": f"trained to the end ({done}), colored by the metric"}
        handles.append(Line2D([], [], **look))
    if any(one.state not in ("complete", "diverged") for one in shown):
        handles.append(Line2D([], [], color=_LIGHT, linewidth=1.2, label="stopped early"))
    if any(one.state == "diverged" for one in shown):
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="diverged"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save_figure(figure, path)


def draw_importance(found: Mapping[str, float], share: float, headline: str, path: Path, title: str) -> None:
    """Draw one bar per option: the share of the metric's variance that it explains."""
    names = sorted(found, key=lambda name: found[name])
    size = (7.0, 1.5 + 0.42 * len(names))
    figure = new_figure(size)
    axes = figure.subplots()
    axes.barh(range(len(names)), [100 * found[name] for name in names], color=BLUE, height=0.62)
    for at, name in enumerate(names):
        axes.annotate(f"{100 * found[name]:.0f} %", (100 * found[name], at), xytext=(4, 0), va="center",
                      textcoords="offset points", fontsize=9)  # fmt: skip
    axes.set_yticks(range(len(names)), [drawn(cut(name, 40)) for name in names])
    axes.set_ylabel("option")
    axes.set_xlim(0, 112)
    axes.set_xlabel(
        f"share of the variance of validation {metric_words(headline)}\nafter {share:.0%} of the length, % (fANOVA)"
    )
    _clean(axes)
    axes.set_title(fitted(title, size[0], 11), fontsize=11)
    save_figure(figure, path)


def draw_history(trials: Sequence[Trial], headline: str, mode: Mode, path: Path, title: str) -> None:
    """Draw the metric by trial, and the best so far among full-length trials.

    Raises:
        ValueError: if nothing was measured.
    """
    measured = [one for one in trials if one.value is not None]
    if not measured:
        raise ValueError("no trial was measured")
    size, factor = (7.5, 4.2), 100.0 if headline in SHARES else 1.0
    figure = new_figure(size)
    axes = figure.subplots()
    whole = [one for one in measured if one.state == "complete"]
    others = [one for one in measured if one.state != "complete"]
    lost = [one for one in trials if one.state in ("diverged", "failed")]
    values = [factor * (one.value or 0.0) for one in measured]
    low, high = _wider(min(values), max(values))
    if others:
        axes.plot([one.number for one in others], [factor * (one.value or 0.0) for one in others], "o", color=_LIGHT,
                  markersize=4, label="stopped early")  # fmt: skip
    if lost:
        axes.plot([one.number for one in lost], [low] * len(lost), "x", color=GREY, markersize=5,
                  label="diverged or failed")  # fmt: skip
    if whole:
        axes.plot([one.number for one in whole], [factor * (one.value or 0.0) for one in whole], "o", color=BLUE,
                  markersize=5, label="trained to the end")  # fmt: skip
        best, best_so_far = whole[0], []
        for one in whole:
            best = one if rank(one.value or 0.0, mode) < rank(best.value or 0.0, mode) else best
            best_so_far.append(factor * (best.value or 0.0))
        steps = [*(one.number for one in whole), max(one.number for one in trials)]
        axes.step(steps, [*best_so_far, best_so_far[-1]], where="post", color=VERMILION, linewidth=1.4,
                  label="best so far")  # fmt: skip
    axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.set_xlabel("trial, in the order they began")
    axes.set_ylabel(f"validation {metric_words(headline)}" + (", %" if headline in SHARES else ""))
    axes.xaxis.get_major_locator().set_params(integer=True)
    _clean(axes)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    axes.set_title(fitted(f"{title}: validation {metric_words(headline)} of every trial", size[0], 11), fontsize=11)
    save_figure(figure, path)


_HALO = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}


class _Column:
    """An axis of parallel coordinates: the position of a value, from 0 to 1, and its tick labels."""

    def __init__(self, option: str, low: float, high: float, kind: Kind, choices: Sequence[Any] = ()) -> None:
        self.option, self._low, self._high, self._kind, self._choices = option, low, high, kind, list(choices)

    @classmethod
    def of(cls, dimension: Dimension, values: Sequence[Any]) -> _Column:
        if dimension.is_choice:
            return cls(dimension.option, 0, max(len(dimension.values) - 1, 1), "choice", dimension.values)
        low, high = dimension.values
        return cls(dimension.option, low, high, dimension.kind)

    def place(self, value: Any, number: int) -> float:
        """Return the position of a value; equal choices are spread a little, by the number of the trial."""
        if self._choices:
            spread = 0.05 * (((number * 0.618) % 1.0) - 0.5)
            return self._choices.index(value) / self._high + spread
        low, high = self._scaled(self._low), self._scaled(self._high)
        return (self._scaled(value) - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Positions with their labels."""
        if self._choices:
            return [(at / self._high, cut(short(value), 16)) for at, value in enumerate(self._choices)]
        if self._kind == "int":
            whole = np.unique(np.linspace(self._low, self._high, 5).round())
            return [(self.place(value, 0), f"{value:g}") for value in whole]
        low, high = self._scaled(self._low), self._scaled(self._high)
        found = [(float(at), low + at * (high - low)) for at in np.linspace(0, 1, 5)]
        return [(at, f"{10**value if self._kind == 'log' else value:.3g}") for at, value in found]

    def _scaled(self, value: float) -> float:
        return float(np.log10(value)) if self._kind == "log" else float(value)


def _shown(values: Sequence[float], whole: Sequence[float]) -> tuple[float, float]:
    """Return the range of the metric's axis: all values, but at most four times the range of full-length trials.

    Trials that were stopped early and lie beyond it end at the edge.
    """
    low, high = _wider(min(values), max(values))
    span = 4 * (max(whole) - min(whole))
    return (max(low, min(whole) - span), min(high, max(whole) + span)) if span > 0 else (low, high)


def _wider(low: float, high: float) -> tuple[float, float]:
    """Return a range that is not empty."""
    return (low, high) if high > low else (low - abs(low) * 0.01 - 1e-3, high + abs(high) * 0.01 + 1e-3)


def _two_lines(option: str) -> str:
    section, _, name = option.rpartition(".")
    return drawn(f"{cut(section, 16)}.") + "\n" + drawn(cut(name, 18)) if section else drawn(option)


def _clean(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
