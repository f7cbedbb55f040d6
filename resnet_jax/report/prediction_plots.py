"""Pictures of a test without classes: predicted against true values, and the average precision of every label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from resnet_jax.report.canvas import BLUE, GREY, SKY, VERMILION, headline as fitted, new_figure, save_figure, short
from resnet_jax.report.text import drawn
from resnet_jax.tasks.ranking import average_precision
from resnet_jax.tasks.scores import mean_known

#: Targets that are drawn; of more, the first.
MAX_TARGETS = 9
#: Points of a target; of more, evenly many are left out.
MAX_POINTS = 5000
#: Labels that are drawn; of more, those with the largest and the smallest average precision.
MAX_LABELS = 60


def plot_test_rows(rows: Mapping[str, np.ndarray], names: Sequence[str], path: Path, *, title: str) -> None:
    """Draw what was kept of every example of a test: of regression a scatter, of multi-label a bar for every label.

    Args:
        rows: ``label`` (N, K) and ``prediction``, values (N, K), or ``score``, outputs (N, K).
        names: of the targets or labels.
        path: PNG to write.
        title: headline.
    """
    if "prediction" in rows:
        plot_scatter(rows["label"], rows["prediction"], names, path, title=title)
    else:
        plot_label_precision(rows["label"], rows["score"], names, path, title=title)


def plot_scatter(true: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path, *, title: str) -> None:
    """Draw predicted against true values, (N, M) each, with the line where they are the same; axes for every target."""
    targets = min(true.shape[1], MAX_TARGETS)
    columns = min(targets, 3)
    size = (4.2 * columns, 4.2 * -(-targets // columns))
    figure = new_figure(size)
    every = max(1, -(-len(true) // MAX_POINTS))
    for axes, target in zip(np.ravel(figure.subplots(-(-targets // columns), columns)), range(targets), strict=False):
        x, y = true[::every, target].astype(np.float64), predicted[::every, target].astype(np.float64)
        seen = np.isfinite(y)
        ends = (min(x.min(), y[seen].min(initial=np.inf)), max(x.max(), y[seen].max(initial=-np.inf)))
        axes.plot(ends, ends, color=GREY, linewidth=1.0, label="predicted = true")
        axes.plot(x[seen], y[seen], ".", color=BLUE, markersize=4.0, alpha=0.5)
        name = drawn(short(names[target] if target < len(names) else f"target {target}", 24))
        axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}", aspect="equal")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    more = f" (first {targets} of {true.shape[1]} targets)" if true.shape[1] > targets else ""
    figure.suptitle(fitted(title + more, size[0], 11), fontsize=11)
    save_figure(figure, path)


def plot_label_precision(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw the average precision of every label, largest first, and as a tick the share of examples that have it."""
    precision = np.array([average_precision(y, z) for y, z in zip(labels.T, scores.T, strict=True)])
    known = np.flatnonzero(~np.isnan(precision))
    order = known[np.argsort(-precision[known], kind="stable")]
    left = len(order) - MAX_LABELS
    order = order if left <= 0 else np.concatenate([order[: MAX_LABELS // 2], order[-MAX_LABELS // 2 :]])
    size = (7.6, max(2.5, 0.26 * len(order) + 1.4))
    figure = new_figure(size)
    axes = figure.subplots()
    places = np.arange(len(order))
    axes.barh(places, precision[order], color=SKY, label="average precision")
    axes.plot(
        labels.mean(axis=0)[order],
        places,
        "|",
        color=VERMILION,
        markersize=10.0,
        label="share of examples with the label (chance)",
    )
    shown = [drawn(short(str(names[k]) if k < len(names) else f"label {k}", 24)) for k in order.tolist()]
    axes.set_yticks(places, shown)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), ylabel="label")
    axes.set_xlabel(f"average precision (mean over the labels: {mean_known(precision):.3f})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
    more = f" ({left} labels in between left out)" if left > 0 else ""
    figure.suptitle(fitted(title + more, size[0], 11), fontsize=11)
    save_figure(figure, path)
