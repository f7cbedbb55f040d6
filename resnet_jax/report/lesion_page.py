"""The report of lesions and paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from resnet_jax.depth.lesion import Deletions, Permutations
from resnet_jax.depth.paths import PathLengths
from resnet_jax.report.depth_axes import DepthAxis
from resnet_jax.report.depth_page import Page, write_page
from resnet_jax.report.lesion_report import (
    lesion_sections,
    loss_sections,
    path_sections,
    summarize_lesions,
    summarize_losses,
)

#: Names of the files that :func:`write_lesion_report` writes.
FIGURES = ("report.html", "lesions.png", "deletions.png", "permutations.png", "path-lengths.png")


def write_lesion_report(
    deletions: Deletions,
    permutations: Permutations | None,
    paths: PathLengths | None,
    folder: Path,
    *,
    title: str,
    facts: Mapping[str, str],
) -> Path:
    """Write the page and its figures; return the page's path.

    Args:
        deletions: of single blocks and of several.
        permutations: where there are blocks that can change places.
        paths: where there are skips.
        folder: where to.
        title: headline.
        facts: label -> value, shown at the top.
    """
    depth = DepthAxis(deletions.stages)
    if np.isnan(deletions.whole_accuracy):
        several = (deletions.counts, deletions.several_loss) if len(deletions.counts) else None
        one = (deletions.whole_loss, deletions.loss)
        sections = loss_sections(depth, deletions.names, *one, deletions=several)
        summary = summarize_losses(deletions.names, *one)
    else:
        orders = None
        if permutations is not None:
            orders = (permutations.correlation.ravel(), 1.0 - permutations.accuracy.ravel())
        sections = lesion_sections(
            depth,
            deletions.names,
            deletions.whole_accuracy,
            deletions.accuracy,
            deletions=(deletions.counts, 1.0 - deletions.several_accuracy) if len(deletions.counts) else None,
            permutations=orders,
        )
        summary = summarize_lesions(deletions.names, deletions.whole_accuracy, deletions.accuracy)
    if paths is not None:
        counts = np.exp(paths.log_paths - paths.blocks * np.log(2.0))
        sections += path_sections(paths.lengths, np.exp(paths.log_norm), counts, paths.contribution)
        low, high = paths.effective_lengths()  # of all lengths, those between the measured ones too
        summary.append(
            f"95 % of the gradient, summed over paths, comes through {low} to {high} branches of {paths.blocks}."
        )
    return write_page(Page(title, facts, summary, sections), folder)
