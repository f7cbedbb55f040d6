"""Two towers drawn: the similarities of pairs, class by class, and what is nearest to some examples of either side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.example import MEANING_OF_RANK
from resnet_jax.report.canvas import AMBER, BLUE, GREEN, GREY, VERMILION, headline, new_figure, save_figure, short
from resnet_jax.report.example_axes import TEXT, Style, draw_example
from resnet_jax.report.text import drawn
from resnet_jax.tasks.retrieval import RANKS

#: Keys of what is drawn: similarities (n, n), labels (n,), and before the name of a side what is asked and found there.
SIMILARITY, LABELS, QUERIES, FOUND = "similarity", "labels", "queries/", "found/"
#: Recall by class (ways, ranks), and the accuracy of zero-shot classification of image, other and both.
RECALLS, ZERO_SHOT, WAYS = "recalls", "zero_shot", ("image_to_other", "other_to_image")
#: Classes up to which the axes of the matrix name them.
_NAMED = 40


def draw_retrieval(kept: Mapping[str, np.ndarray], path: Path, *, class_names: Sequence[str], title: str) -> None:
    """Draw the matrix of similarities, and below examples with the nearest of the other side.

    A frame is green where the class is right, and orange where it is not, which its title says too.

    Args:
        kept: see :func:`resnet_jax.runs.shown_pairs.retrieved_examples`.
        path: PNG to write.
        class_names: in label order.
        title: headline.
    """
    asked = kept[f"{QUERIES}image/{LABELS}"].shape[0]
    nearest = kept[f"{FOUND}image/{LABELS}"].shape[1]
    columns, cell = nearest + 1, 0.85
    width, matrix = 2 * columns * cell, 4.2
    figure = new_figure((width, matrix + asked * (cell + 0.2) + 0.8), dpi=125)
    above, below = figure.subfigures(2, 1, height_ratios=(matrix, asked * (cell + 0.2) + 0.3))
    above.suptitle(headline(title, width), fontsize=12)
    matrix_figure, bars = above.subfigures(1, 2)
    _draw_matrix(matrix_figure, kept[SIMILARITY], kept[LABELS], class_names)
    _draw_bars(bars, kept[RECALLS], kept[ZERO_SHOT])
    halves = below.subfigures(1, 2)
    for half, source, said in zip(
        halves, ("image", "other"), ("An image and its nearest of the other kind", "The other way round"), strict=True
    ):
        half.suptitle(f"{said}\n(gray frame: query; green: same class; orange: another)", fontsize=TEXT + 1)
        grid = half.add_gridspec(asked, columns)
        for row in range(asked):
            example, label = kept[f"{QUERIES}{source}"][row], int(kept[f"{QUERIES}{source}/{LABELS}"][row])
            _draw(half, grid[row, 0], example, kept[f"{QUERIES}{source}"], class_names[label], GREY)
            for place in range(nearest):
                found, other = kept[f"{FOUND}{source}"], int(kept[f"{FOUND}{source}/{LABELS}"][row, place])
                colour, name = (GREEN, "") if other == label else (VERMILION, "not: ")
                _draw(half, grid[row, place + 1], found[row, place], found, f"{name}{class_names[other]}", colour)
    save_figure(figure, path)


def _draw(figure: Any, cell: Any, example: np.ndarray, all_alike: np.ndarray, name: str, colour: str) -> None:
    """Draw one example without axes, in a frame of a colour; black and white are the ends of ``all_alike``."""
    low, high = 0.0, 255.0
    if all_alike.dtype != np.uint8:
        low, high = (float(end) for end in np.percentile(all_alike, (0.5, 99.5)))
    style = Style((), {"image": MEANING_OF_RANK.get(example.ndim, "array")}, low, high if high > low else low + 1)
    before = len(figure.axes)
    draw_example(figure, cell, {"image": example}, style, title=short(drawn(name), 16), caption="")
    for axes in figure.axes[before:]:
        axes.set(xticks=[], yticks=[], ylabel="")
        axes.grid(False)
        axes.spines[:].set(visible=True, color=colour, linewidth=2.0)


def _draw_bars(figure: Any, found: np.ndarray, zero_shot: np.ndarray) -> None:
    """Draw recall by class in both directions, (2, ranks), and the accuracy of zero-shot classification, (3,)."""
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(found.shape[1] * 2, 3))
    places = np.arange(found.shape[1])
    for way, (name, colour) in enumerate(zip(WAYS, (BLUE, AMBER), strict=True)):
        bars = left.bar(
            places + 0.4 * way, 100 * found[way], 0.36, color=colour, label=f"from {name.replace('_', ' ')}"
        )
        left.bar_label(bars, fmt="%.1f", fontsize=TEXT - 1)
    left.set_xticks(places + 0.2, [f"{k}" for k in RANKS], fontsize=TEXT)
    left.tick_params(labelsize=TEXT)
    left.set(ylim=(0, 130))
    left.set_ylabel("share of the queries, %", fontsize=TEXT)
    left.set_xlabel("among the nearest", fontsize=TEXT)
    left.set_title("One of the same class found\n(recall by class)")
    left.legend(frameon=False, fontsize=TEXT, loc="upper center")
    bars = right.bar(np.arange(3), 100 * zero_shot, 0.6, color=(BLUE, AMBER, GREEN))
    right.bar_label(bars, fmt="%.1f", fontsize=TEXT - 1)
    right.set_xticks(np.arange(3), ["image\nalone", "other\nalone", "both"], fontsize=TEXT)
    right.set_xlabel("classified by", fontsize=TEXT)
    right.set_title("Accuracy by the\nclass means")
    for axes in (left, right):
        axes.title.set_fontsize(TEXT + 1)
        axes.spines[["top", "right"]].set_visible(False)


def _draw_matrix(figure: Any, similarity: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    axes = figure.add_subplot()
    most = float(np.abs(similarity).max())
    shown = axes.imshow(similarity, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("cosine similarity", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)
    present, first, count = np.unique(labels, return_index=True, return_counts=True)
    for edge in first[1:]:
        axes.axhline(edge - 0.5, color=GREY, linewidth=0.4)
        axes.axvline(edge - 0.5, color=GREY, linewidth=0.4)
    if len(present) <= _NAMED:
        middles, said = first + (count - 1) / 2, [short(drawn(names[int(label)]), 12) for label in present]
        axes.set_xticks(middles, said, fontsize=TEXT, rotation=90 if max(map(len, said)) > 3 else 0)
        axes.set_yticks(middles, said, fontsize=TEXT)
    axes.set_xlabel("pairs by class: the other of each", fontsize=TEXT)
    axes.set_ylabel("pairs by class: the image of each", fontsize=TEXT)
    axes.set_title(f"Similarity of {len(labels)} test pairs, image to other", fontsize=TEXT + 1)
