"""The picture of a learning-rate range test: loss over the rate, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.report.canvas import BLUE, GREEN, GREY, VERMILION, headline, new_figure, save_figure
from resnet_jax.report.depth_axes import plain

#: Looks of the marks, in order.
LOOKS = ((VERMILION, "-"), (GREEN, "--"), (GREY, ":"))
#: What is above so many times the first loss is cut off, so that the part that matters can be seen.
CUT = 1.5
SIZE = (8.4, 4.4)


def plot_range(
    path: Path,
    *,
    title: str,
    rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    marks: Mapping[str, float | None],
) -> None:
    """Draw the smoothed loss, its mean and one standard deviation of several seeds, the losses themselves and marks.

    Args:
        path: PNG to write.
        title: of the picture.
        rates: rising, (updates,).
        losses: (seeds, updates); NaN where there is none.
        smoothed: the same, smoothed.
        marks: name -> rate at which a vertical line stands; None for none.
    """
    figure = new_figure(SIZE)
    axes: Any = figure.subplots()
    plain(axes)
    seeds, known = len(losses), np.isfinite(losses).all(axis=0)
    for row in losses:
        axes.plot(
            rates, row, color=GREY, alpha=0.35, linewidth=0.7, label="single batches" if row is losses[0] else None
        )
    mean = np.where(known, smoothed.mean(axis=0), np.nan)
    name = "smoothed" if seeds == 1 else f"smoothed, mean of {seeds} seeds"
    axes.plot(rates, mean, color=BLUE, linewidth=1.8, label=name)
    if seeds > 1:
        spread = smoothed.std(axis=0, ddof=1)
        axes.fill_between(
            rates, mean - spread, mean + spread, color=BLUE, alpha=0.2, linewidth=0, label="one standard deviation"
        )
    for (mark, rate), (colour, dash) in zip(marks.items(), LOOKS, strict=False):
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle=dash, linewidth=1.4, label=f"{mark}: {rate:.2g}")
    axes.set_xscale("log")
    axes.set_xlim(rates[0], rates[-1])
    low, first = float(np.nanmin(losses)), float(losses[np.isfinite(losses)][0])
    high = min(float(np.nanmax(losses)), max(CUT * first, 2 * float(np.nanmax(mean[:1]))))
    axes.set_ylim(min(0.0, low) if low < 0.2 * high else low - 0.05 * (high - low), 1.02 * high)
    axes.set_xlabel("learning rate, growing from update to update (log scale)")
    axes.set_ylabel("training loss of one batch")
    axes.set_title(headline(title, SIZE[0]), loc="left", fontsize=12)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, path)
