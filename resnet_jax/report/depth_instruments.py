"""Figures of the other instruments: Jacobians, curvature, lesions, paths, and gradients over the time of a training.

Plain arrays in, like :mod:`resnet_jax.report.depth_figures`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_jax.report.canvas import new_figure
from resnet_jax.report.depth_axes import (
    BLOCK,
    INK,
    WIDTH,
    DepthAxis,
    DepthFigure,
    Line,
    Panel,
    draw_depth,
    draw_over,
    mark_stages,
    plain,
)
from resnet_jax.report.numbers import power_of_ten
from resnet_jax.report.text import drawn


def singular_values_figure(
    depth: DepthAxis,
    largest: np.ndarray,
    smallest: np.ndarray,
    middle: np.ndarray | None = None,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    *,
    name: str = "singular-values",
    title: str = "Singular values of each block",
    of: str = "the Jacobian of each block (its output by its input)",
) -> DepthFigure:
    """Draw largest and smallest singular values by depth, the median with a band between two quantiles.

    Args:
        depth: the axis.
        largest: ``(blocks,)``.
        smallest: ``(blocks,)``.
        middle: median, if known.
        low: lower quantile, the edge of the band.
        high: upper quantile.
        name: of the file.
        title: headline.
        of: what they are singular values of, for the caption.
    """
    lines = [Line("largest", largest)]
    band = ""
    if middle is not None:
        lines.append(Line("median", middle, low, high))
        band = " The shade holds four fifths of them."
    lines.append(Line("smallest", smallest))
    return draw_depth(
        name,
        title,
        f"Singular values of {of}, on a log axis: by what factor it stretches a small change that goes through it, "
        f"in the direction where it does so most, least, and typically.{band} At 1 a change keeps its size, and so "
        "does a gradient on its way back.",
        depth,
        [Panel("singular value", lines, "log", level=1.0)],
    )


def hessian_figure(depth: DepthAxis, largest_eigenvalue: np.ndarray) -> DepthFigure:
    """Draw the largest Hessian eigenvalue of each block's parameters, ``(blocks,)``."""
    return draw_depth(
        "curvature",
        "Curvature of the loss by depth",
        "Largest eigenvalue of the Hessian of the loss with respect to the parameters of each block, on a log axis: "
        "how sharply the loss bends when only that block moves. Plain gradient descent becomes unstable where the "
        "learning rate is above 2 over the eigenvalue.",
        depth,
        [Panel("largest eigenvalue", [Line("", largest_eigenvalue)], "log")],
    )


def loss_lesion_figure(depth: DepthAxis, loss: np.ndarray, whole: float) -> DepthFigure:
    """Draw the loss without each block, of a network whose outputs are not right or wrong.

    Args:
        depth: the axis.
        loss: mean loss when this block is taken out, ``(blocks,)``; NaN where it cannot be.
        whole: of the whole network.
    """
    return draw_depth(
        "lesions",
        "Loss without one block",
        f"Mean loss when the branch of one block is taken out and only its skip remains. The line across is the whole "
        f"network, {whole:.4g}.",
        depth,
        [Panel("mean loss", [Line("", loss)], level=whole)],
    )


def loss_deletions_figure(deleted: np.ndarray, loss: np.ndarray) -> DepthFigure:
    """Draw the loss over the number of blocks taken out at once; arguments as of :func:`deletions_figure`."""
    middle, low, high = _over_draws(loss)
    return draw_over(
        "deletions",
        "Loss without several blocks",
        "Mean loss when several blocks, chosen at random, are taken out at once; the line is the median over random "
        "choices, the shade reaches from the best to the worst.",
        np.asarray(deleted),
        "blocks removed at once",
        [Panel("mean loss", [Line("", middle, low, high)])],
    )


def lesion_figure(depth: DepthAxis, accuracy: np.ndarray, whole: float) -> DepthFigure:
    """Draw the accuracy without each block.

    Args:
        depth: the axis.
        accuracy: share correct when this block is taken out, ``(blocks,)``; NaN where it cannot be.
        whole: accuracy of the whole network.
    """
    known = np.asarray(accuracy, np.float64)[np.isfinite(accuracy)]
    low = min([whole, *known], default=0.0)
    return draw_depth(
        "lesions",
        "Accuracy without one block",
        f"Share of images still named correctly when the branch of one block is taken out and only its skip remains. "
        f"The line across is the whole network, {100 * whole:.2f} %. (Veit et al. 2016: a residual network loses "
        "little, a plain one everything.)",
        depth,
        [
            Panel(
                "accuracy (share of images)",
                [Line("", accuracy)],
                "percent",
                level=whole,
                limits=(max(low - 0.05, -0.02), 1.02),
            )
        ],
    )


def deletions_figure(deleted: np.ndarray, error: np.ndarray) -> DepthFigure:
    """Draw the error over the number of blocks taken out at once.

    Args:
        deleted: numbers of blocks, ``(counts,)``, rising.
        error: share of images named wrongly, ``(counts, repetitions)``: one column per random choice of blocks.
    """
    middle, low, high = _over_draws(error)
    return draw_over(
        "deletions",
        "Error without several blocks",
        "Share of images named wrongly when several blocks, chosen at random, are taken out at once; the line is the "
        "median over random choices, the shade reaches from the best to the worst. It rises smoothly where the network "
        "works like a collection of many paths.",
        np.asarray(deleted),
        "blocks removed at once",
        [Panel("error (share of images)", [Line("", middle, low, high)], "percent", limits=(-0.02, 1.02))],
    )


def permutations_figure(correlation: np.ndarray, error: np.ndarray) -> DepthFigure:
    """Draw the error of networks whose blocks were put into another order.

    Args:
        correlation: Kendall's rank correlation between the new order and the old, ``(orders,)``.
        error: share of images named wrongly, ``(orders,)``.
    """
    return draw_over(
        "permutations",
        "Error with the blocks in another order",
        "Each dot is the network with some blocks of equal shape exchanged. To the right the order is nearly the old "
        "one (Kendall's rank correlation 1), to the left it has little to do with it.",
        np.asarray(correlation),
        "rank correlation with the trained order",
        [Panel("error (share of images)", [Line("", error)], "percent", limits=(-0.02, 1.02))],
        points=True,
    )


def path_lengths_figure(
    length: np.ndarray, gradient: np.ndarray, count: np.ndarray, total: np.ndarray | None = None
) -> DepthFigure:
    """Draw how much paths of each length carry of the gradient.

    Args:
        length: blocks whose branch a path goes through, ``(lengths,)``, rising.
        gradient: norm of the gradient that one path of that length carries, ``(lengths,)``.
        count: share of all paths that have it, ``(lengths,)``.
        total: share of all gradient that paths of that length carry; None: count times gradient, scaled to sum to 1.
    """
    product = np.nan_to_num(np.asarray(count, np.float64) * gradient)
    carried = product / max(product.sum(), np.finfo(np.float64).tiny) if total is None else total
    return draw_over(
        "path-lengths",
        "Gradient by the length of the path",
        "A path takes skip or branch at every block; its length is how many branches it takes. Above: the gradient "
        "that comes back along one path. Below: how many paths have each length, and what share of all gradient they "
        "carry: where the second lies left of the first, the network learns through short paths (Veit et al. 2016).",
        np.asarray(length),
        "branches on the path",
        [
            Panel("gradient norm of one path", [Line("", gradient)], "log"),
            Panel("share", [Line("share of paths", count), Line("share of the gradient", carried)], "percent"),
        ],
    )


def heat_map_figure(
    depth: DepthAxis,
    steps: Sequence[int],
    norms: np.ndarray,
    *,
    name: str = "heat-map",
    title: str = "Gradient through depth and time",
    quantity: str = "gradient norm",
) -> DepthFigure:
    """Draw a quantity of every block at every logged step, in colour.

    Args:
        depth: the axis.
        steps: of the training, ``(times,)``, rising; they may be unevenly far apart.
        norms: ``(times, blocks)``; NaN, 0 and infinity stay white.
        name: of the file.
        title: headline.
        quantity: what the colour is.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    values = np.asarray(norms, np.float64)
    values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    figure = new_figure((WIDTH, 3.4))
    axes = figure.subplots()
    plain(axes)
    axes.grid(visible=False)
    seen = values[~np.isnan(values)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.5, 2.0)
    if high < 4 * low:  # small differences shall look small
        middle = np.sqrt(low) * np.sqrt(high)
        low, high = middle / 2, middle * 2
    image = axes.pcolormesh(
        np.arange(len(depth) + 1) - 0.5,
        edges(np.asarray(steps, np.float64)),
        np.ma.masked_invalid(values),
        cmap="cividis",
        norm=LogNorm(low, high),
        rasterized=True,
        linewidth=0,
    )
    mark_stages(axes, depth)
    axes.set_xlabel(BLOCK, color=INK)
    axes.set_ylabel("training step", color=INK)
    if len(steps) > 3:
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    else:
        axes.set_yticks(list(steps))
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=24)
    bar.ax.tick_params(which="both", color=INK, labelcolor=INK, labelsize=9)
    if high < 100 * low:
        bar.ax.yaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if high > 8 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
        )
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    bar.ax.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    bar.outline.set_edgecolor(INK)
    bar.set_label(drawn(f"{quantity} (log scale)"), color=INK)
    return DepthFigure(
        name,
        title,
        f"The {quantity} at each block (across) and each logged step of the training (upwards); bright is large, on a "
        "logarithmic scale. A vertical stripe is a block that differs from its neighbours, a horizontal one a step "
        "where something happened everywhere.",
        figure,
        not len(seen),
    )


def edges(centres: np.ndarray) -> np.ndarray:
    """Return the edges between cells around ``centres``, one more than those."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _over_draws(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.asarray(values, np.float64)
    return np.median(values, axis=1), values.min(axis=1), values.max(axis=1)
