"""Sections about lesions and paths: from plain arrays to sentences, figures and tables of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_jax.report.depth_axes import DepthAxis
from resnet_jax.report.depth_instruments import (
    deletions_figure,
    lesion_figure,
    loss_deletions_figure,
    loss_lesion_figure,
    path_lengths_figure,
    permutations_figure,
)
from resnet_jax.report.depth_page import Section, Table

_NOT_AGAIN = (
    "The trained network is not trained again: blocks are taken out of it, or exchanged, and it is asked once more. "
    "What a block contributes shows in what is lost without it."
)


def lesion_sections(
    depth: DepthAxis,
    names: Sequence[str],
    whole: float,
    accuracy: np.ndarray,
    *,
    deletions: tuple[np.ndarray, np.ndarray] | None = None,
    permutations: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Section]:
    """Return the sections of a network whose blocks were taken out or exchanged.

    Args:
        depth: the axis.
        names: of the blocks.
        whole: accuracy of the whole network.
        accuracy: without each block, ``(blocks,)``; NaN for a block that cannot be taken out.
        deletions: numbers of blocks taken out at once ``(counts,)``, and errors ``(counts, repetitions)``.
        permutations: Kendall's rank correlation of each order with the trained one ``(orders,)``, and errors.
    """
    figures = [lesion_figure(depth, accuracy, whole)]
    if deletions is not None:
        figures.append(deletions_figure(*deletions))
    if permutations is not None:
        figures.append(permutations_figure(*permutations))
    lost = whole - np.asarray(accuracy, np.float64)
    columns: dict[str, Any] = {"block": np.arange(len(depth)), "name": list(names), "stage": depth.stage + 1}
    columns |= {"accuracy": np.asarray(accuracy, np.float64), "lost": lost}
    meaning = {
        "accuracy": "share of images named correctly without the block",
        "lost": "what the whole network has more",
    }
    return [
        Section(
            "Lesions",
            _NOT_AGAIN,
            figures,
            [Table("Accuracy without each block", columns, meaning)],
        )
    ]


def loss_sections(
    depth: DepthAxis,
    names: Sequence[str],
    whole: float,
    loss: np.ndarray,
    *,
    deletions: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Section]:
    """Return the sections of a network whose outputs are not right or wrong; as :func:`lesion_sections`, by its loss.

    Args:
        depth: the axis.
        names: of the blocks.
        whole: mean loss of the whole network.
        loss: without each block, ``(blocks,)``; NaN for a block that cannot be taken out.
        deletions: numbers of blocks taken out at once ``(counts,)``, and losses ``(counts, repetitions)``.
    """
    figures = [loss_lesion_figure(depth, loss, whole)]
    if deletions is not None:
        figures.append(loss_deletions_figure(*deletions))
    columns: dict[str, Any] = {"block": np.arange(len(depth)), "name": list(names), "stage": depth.stage + 1}
    columns |= {"loss": np.asarray(loss, np.float64), "more": np.asarray(loss, np.float64) - whole}
    meaning = {"loss": "mean loss without the block", "more": "how much more than the whole network's that is"}
    return [Section("Lesions", _NOT_AGAIN, figures, [Table("Loss without each block", columns, meaning)])]


def summarize_losses(names: Sequence[str], whole: float, loss: np.ndarray) -> list[str]:
    """Return what the lesions of single blocks show in sentences, where there is no accuracy.

    >>> summarize_losses(["a", "b", "c"], 0.9, np.array([np.nan, 1.5, 0.99]))[1]
    'Without block 1 (b), the one it needs most, it is 1.5; without a typical block (median) 1.245.'
    """
    known = np.flatnonzero(np.isfinite(loss))
    first = f"The mean loss of the whole network is {whole:.4g}."
    if not len(known):
        return [first, "No block of it can be taken out."]
    worst = int(known[np.argmax(loss[known])])
    most = f"Without block {worst} ({names[worst]}), the one it needs most, it is {loss[worst]:.4g}"
    return [first, f"{most}; without a typical block (median) {np.median(loss[known]):.4g}."]


def summarize_lesions(names: Sequence[str], whole: float, accuracy: np.ndarray) -> list[str]:
    """Return what the lesions of single blocks show in sentences.

    >>> summarize_lesions(["a", "b", "c"], 0.9, np.array([np.nan, 0.5, 0.89]))[1]
    'Without block 1 (b), the one it needs most, it names 50 %; without a typical block (median) 69.5 %.'
    """
    known = np.flatnonzero(np.isfinite(accuracy))
    first = f"The whole network names {_share(whole)} of the images correctly."
    if not len(known):
        return [first, "No block of it can be taken out."]
    worst = int(known[np.argmin(accuracy[known])])
    without = f"without a typical block (median) {_share(float(np.median(accuracy[known])))}"
    most = f"Without block {worst} ({names[worst]}), the one it needs most, it names {_share(accuracy[worst])}"
    return [first, f"{most}; {without}."]


def _share(value: float) -> str:
    return f"{100 * value:.4g} %"


def path_sections(
    length: np.ndarray, gradient: np.ndarray, count: np.ndarray, total: np.ndarray | None = None
) -> list[Section]:
    """Return the section on paths; the arguments are those of :func:`path_lengths_figure`."""
    columns: dict[str, Any] = {"length": np.asarray(length), "gradient": np.asarray(gradient), "share_of_paths": count}
    if total is not None:
        columns["share_of_gradient"] = total
    return [
        Section(
            "Paths",
            "A residual network of n blocks is a sum over 2 to the n paths: at each block a signal takes the skip or "
            "the branch.",
            [path_lengths_figure(length, gradient, count, total)],
            [Table("One row per length", columns)],
        )
    ]
