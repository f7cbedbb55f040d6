"""The two pictures of a run: its learning curves and its confusion matrix."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from resnet_jax.report.canvas import BLUE, GREY, VERMILION, headline as fitted, new_figure, save_figure, short
from resnet_jax.report.depth_axes import log_scale, percent_axis
from resnet_jax.report.text import drawn
from resnet_jax.tasks.confusion import Confusion
from resnet_jax.tasks.task import SHARES, format_metric, metric_words

#: A confusion matrix of more classes than this gets no numbers and no names: they would be unreadable.
MAX_NAMED_CLASSES = 25
#: What the shading of a confusion matrix is, and what the numbers in it are.
COLOUR = "color: share of the true class"
COLOUR_AND_COUNT = f"{COLOUR}; number: count"
#: A matrix with a count of so many has all of them rounded, such as 1.2k: of pixels there are millions.
LARGE = 100_000
#: Letters of a class name at an axis; the middle of a longer one is left out.
MAX_LETTERS = 24
#: What rows of metrics have that is no metric of the task.
NO_METRICS = (
    "kind",
    "step",
    "epoch",
    "loss",
    "seed",
    "learning_rate",
    "images_per_second",
    "grad_norm",
    "loss_scale",
    "skipped",
)
#: Up to so many epochs, or validations, each has a dot on its line.
MAX_DOTS = 40

#: Of validation, so that it differs from training by more than its color.
_DASHED = {"linestyle": (0, (5, 1.6))}

#: Rows of the picture at most; it has hardly more pixels, and a matrix of thousands of classes would take gigabytes.
MAX_DRAWN_CLASSES = 512


def plot_curves(
    rows: Sequence[dict[str, Any]],
    path: Path,
    *,
    title: str,
    headline: str = "accuracy",
    mode: Literal["max", "min"] = "max",
) -> None:
    """Draw loss, headline metric and learning rate over epochs from the rows of metrics.jsonl.

    Args:
        rows: as :func:`resnet_jax.report.metrics_file.read_metrics` gives them; those of kind ``validation`` are of
            validations within an epoch.
        path: PNG to write.
        title: of the picture.
        headline: the metric to draw; in training another one may be known, which is then drawn.
        mode: whether larger or smaller is better.
    """
    size = (9.0, 3.5)
    figure = new_figure(size, dpi=140)
    loss, metric, rate = figure.subplots(1, 3)
    epochs = [row for row in rows if row["kind"] == "epoch"]
    steps = [row for row in rows if row["kind"] == "train"]
    evaluated = [row for row in rows if row["kind"] in ("epoch", "validation") and "val_loss" in row]
    evaluated.sort(key=lambda row: row["epoch"])
    few = max(len(epochs), len(evaluated))
    dots = {"marker": "o", "markersize": 3.0 if few > 1 else 6.0} if few <= MAX_DOTS else {}
    _curve(loss, steps, "loss", color=BLUE, label="training, single batches", linewidth=0.8, alpha=0.4)
    _curve(loss, epochs, "loss", color=BLUE, label="training, mean of the epoch", **dots)
    _curve(loss, evaluated, "val_loss", color=VERMILION, label="validation", **dots, **_DASHED)
    trained = training_metric(epochs, headline)
    measured = metric_words(headline)
    if trained is not None and not evaluated:
        measured = metric_words(trained)
    if trained is not None and (not evaluated or _comparable(trained, headline)):
        what = "mean of the epoch" if metric_words(trained) == measured else metric_words(trained)
        _curve(metric, epochs, trained, color=BLUE, label=f"training, {what}", **dots)
    validated = f"val_{headline}"
    _curve(metric, evaluated, validated, color=VERMILION, label="validation", **dots, **_DASHED)
    _curve(rate, steps, "learning_rate", color=GREY, marker="o" if len(steps) == 1 else None)
    known = [row for row in evaluated if row[validated] is not None]
    if known:
        best = (max if mode == "max" else min)(known, key=lambda row: row[validated])
        label = f"best {format_metric(headline, best[validated])} {_when(best['epoch'])}"
        metric.plot(best["epoch"], best[validated], "o", color=VERMILION, markersize=7.0, label=label)
    last = max((row["epoch"] for row in rows), default=0.0)
    for axes, name, more in ((loss, "loss", " (log scale)"), (metric, measured, ""), (rate, "learning rate", "")):
        axes.set(xlabel="epoch", ylabel=_lines(name + more))
        axes.set_title(_lines(name[:1].upper() + name[1:]), fontsize=10.5)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
            axes.set(xticks=[], yticks=[])
            continue
        _epoch_axis(axes, last)
    if loss.lines:
        _loss_axis(loss)
    if metric.lines and (headline if evaluated else trained) in SHARES:
        percent_axis(metric.yaxis)
    for axes in (loss, metric):
        if axes.lines:
            _legend_below(axes)
    if rate.lines:
        rate.set_ylim(bottom=0)
    figure.suptitle(fitted(title, size[0], 11), fontsize=11)
    save_figure(figure, path)


def _comparable(trained: str, headline: str) -> bool:
    """Return whether a metric known in training can stand at the axis of the headline: no loss of a part does."""
    return trained == headline or not trained.endswith("loss")


def _lines(text: str) -> str:
    """Return a label that fits a panel."""
    return "\n".join(drawn(line) for line in textwrap.wrap(short(text, 52), 26))


def _legend_below(axes: Any) -> None:
    """Name the lines beneath the panel, where no curve is hidden."""
    from matplotlib.transforms import ScaledTranslation

    below = axes.transAxes + ScaledTranslation(0, -34 / 72, axes.figure.dpi_scale_trans)  # ticks and the axis's label
    axes.legend(
        frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(-0.02, 0.0), bbox_transform=below,
        borderaxespad=0,
    )  # fmt: skip


def training_metric(epochs: Sequence[Mapping[str, Any]], headline: str) -> str | None:
    """Return the metric that the epochs know of training: the headline, else their first one, or None.

    >>> training_metric([{"step": 1, "epoch": 1.0, "loss": 0.1, "micro_f1": 0.5, "val_map": 0.9}], "map")
    'micro_f1'
    """
    if not epochs or headline in epochs[0]:
        return headline if epochs else None
    others = [name for name in epochs[0] if name not in NO_METRICS and not name.startswith("val_")]
    return others[0] if others else None


def _curve(axes: Any, rows: Sequence[dict[str, Any]], name: str, **style: Any) -> None:
    if rows:
        values = np.asarray([row[name] for row in rows], np.float64)  # null becomes NaN, which leaves a gap
        axes.plot([row["epoch"] for row in rows], values, **{"linewidth": 1.6, **style})


def _when(epoch: float) -> str:
    """Return when a validation was made: at the end of an epoch, counted from 1, or before the first one ended.

    >>> _when(3.0), _when(0.15)
    ('at epoch 3', 'after 0.15 epochs')
    """
    whole = epoch >= 1 and abs(epoch - round(epoch)) < 1e-6
    return f"at epoch {epoch:.0f}" if whole else f"after {epoch:.3g} epochs"


def _epoch_axis(axes: Any, last: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, 1.03 * last)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=last >= 3, steps=[1, 2, 5, 10]))


def _loss_axis(axes: Any) -> None:
    """Scale the losses; those that are no number have no place on the axis, and are counted on it."""
    values = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.lines])
    seen = values[np.isfinite(values) & (values > 0)]
    log_scale(axes.yaxis, seen)
    lost = int(np.sum(~np.isfinite(values)))
    if lost:
        text = f"{lost} of {len(values)} losses are not finite"
        axes.text(
            0.02,
            0.02,
            text,
            transform=axes.transAxes,
            ha="left",
            va="bottom",
            color=VERMILION,
            fontsize=9,
            backgroundcolor="white",
        )


def plot_confusion(confusion: Confusion | np.ndarray, class_names: Sequence[str], path: Path, *, title: str) -> None:
    """Draw a confusion matrix: rows are true classes, columns predicted ones, shading is the share of the row.

    Of more than :data:`MAX_DRAWN_CLASSES` classes neighbours are drawn together, and the axes say how many.

    Args:
        confusion: counts, or a matrix, int (classes, classes).
        class_names: one per class.
        path: PNG to write.
        title: headline.
    """
    counts = confusion if isinstance(confusion, Confusion) else Confusion.from_dense(confusion)
    each = -(-counts.classes // MAX_DRAWN_CLASSES)
    matrix = counts.grouped(each).dense()
    classes, named = len(matrix), counts.classes <= MAX_NAMED_CLASSES
    names = _tick_names(class_names) if named else []
    letters = max(map(len, names), default=0)
    side = float(np.clip(0.5 * classes + 2.0 + 0.07 * letters, 4.5, 12.0 + 0.07 * letters))
    figure = new_figure((side + 0.6, side))
    figure.set_layout_engine("compressed")  # its squares stay squares
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    edges = (-0.5, classes * each - 0.5)
    image = axes.imshow(
        share, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest", extent=(*edges, *reversed(edges))
    )
    together = f", {each} classes together" if each > 1 else ""
    what = "class" if named else f"class, by its number (0 to {counts.classes - 1:,}{together})"
    axes.set(xlabel=f"predicted {what}", ylabel=f"true {what}")
    if named:
        shown = [drawn(name) for name in names]
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if letters > 3 else {}
        axes.set_xticks(range(classes), shown, **slanted)
        axes.set_yticks(range(classes), shown)
        large = matrix.max() >= LARGE
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, _count(count, large), ha="center", va="center", color=color, fontsize=8)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, label=COLOUR_AND_COUNT if named else COLOUR)
    percent_axis(bar.ax.yaxis)
    figure.suptitle(fitted(title, side + 0.6, 11), fontsize=11)
    save_figure(figure, path)


def _count(count: int, large: bool) -> str:
    """Return a count as it stands in its cell.

    >>> _count(1234, False), _count(1234, True), _count(12, True), _count(3_801_906, True), _count(999_900, True)
    ('1234', '1.2k', '12', '3.8M', '1.0M')
    """
    if not large or count < 1000:
        return str(count)
    thousands = count / 1000
    if thousands >= 999.5:
        return f"{thousands / 1000:.1f}M"
    return f"{thousands:.1f}k" if thousands < 9.95 else f"{thousands:.0f}k"


def _tick_names(class_names: Sequence[str]) -> list[str]:
    """Return names that fit at an axis, all of them different if the classes are.

    >>> _tick_names(["cat", "dog"])
    ['cat', 'dog']
    """
    names = [short(name, MAX_LETTERS) for name in class_names]
    if len(set(names)) < len(set(class_names)):
        names = [f"{index}: {short(name, MAX_LETTERS - 4)}" for index, name in enumerate(class_names)]
    return names
