"""The two pictures of a run: its learning curves and its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.confusion import Confusion
from resnet_jax.report.canvas import BLUE, GREY, VERMILION, new_figure
from resnet_jax.report.views import save_figure

#: A confusion matrix of more classes than this gets no numbers and no names: they would be unreadable.
MAX_NAMED_CLASSES = 25

#: Rows of the picture at most; it has hardly more pixels, and a matrix of thousands of classes would take gigabytes.
MAX_DRAWN_CLASSES = 512


def plot_curves(rows: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draw loss, accuracy and learning rate over epochs from the rows of metrics.jsonl.

    Args:
        rows: as :func:`resnet_jax.report.metrics_file.read_metrics` gives them.
        path: PNG to write.
        title: headline.
    """
    figure, (loss, accuracy, rate) = _subplots(1, 3, (12.0, 3.6))
    epochs = [row for row in rows if row["kind"] == "epoch"]
    steps = [row for row in rows if row["kind"] == "train"]
    evaluated = [row for row in epochs if "val_loss" in row]

    def curve(axes, source, name, color, label, **style):
        if source:
            marker = "o" if len(source) == 1 else None
            x, y = ([row[key] for row in source] for key in ("epoch", name))
            y = np.asarray(y, np.float64)  # null becomes NaN, which leaves a gap
            axes.plot(x, y, color=color, label=label, marker=marker, **{"linewidth": 1.6, **style})

    curve(loss, steps, "loss", BLUE, "single batches", linewidth=0.8, alpha=0.4)
    curve(loss, epochs, "loss", BLUE, "training")
    curve(loss, evaluated, "val_loss", VERMILION, "validation")
    curve(accuracy, epochs, "accuracy", BLUE, "training (while learning)")
    curve(accuracy, evaluated, "val_accuracy", VERMILION, "validation")
    curve(rate, steps, "learning_rate", GREY, None)
    loss.set_yscale("log")
    if evaluated:
        best = max(evaluated, key=lambda row: row["val_accuracy"])
        label = f"best {best['val_accuracy']:.2%} at epoch {best['epoch']:.0f}"
        accuracy.plot(best["epoch"], best["val_accuracy"], "o", color=VERMILION, label=label)
    for axes, name in ((loss, "loss (log scale)"), (accuracy, "accuracy"), (rate, "learning rate")):
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes is not rate and axes.lines:
            axes.legend(frameon=False)
    rate.set_ylim(bottom=0)
    figure.suptitle(title)
    save_figure(figure, path)


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
    classes = len(matrix)
    side = float(np.clip(0.5 * classes + 2.0, 4.5, 12.0))
    figure, axes = _subplots(1, 1, (side + 0.6, side))
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    together = f", {each} classes together" if each > 1 else ""
    axes.set(xlabel=f"predicted{together}", ylabel=f"true{together}", title=title)
    if classes <= MAX_NAMED_CLASSES:
        axes.set_xticks(range(classes), class_names, rotation=45, ha="right")
        axes.set_yticks(range(classes), class_names)
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    save_figure(figure, path)


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> Any:
    figure = new_figure(size)
    return figure, figure.subplots(rows, columns)
