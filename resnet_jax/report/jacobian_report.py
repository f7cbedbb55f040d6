"""The report of the Jacobians' singular values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.depth.hessian import HessianEigenvalues
from resnet_jax.depth.jacobian import JacobianSpectra
from resnet_jax.depth.spectra import Spectra
from resnet_jax.report.depth_axes import DepthAxis, DepthFigure
from resnet_jax.report.depth_instruments import hessian_figure, singular_values_figure
from resnet_jax.report.depth_page import Page, Section, Table, write_page
from resnet_jax.report.numbers import readable

LEVELS = (0.1, 0.5, 0.9)
#: Names of the files that :func:`write_jacobian_report` writes.
FIGURES = (
    "report.html",
    "singular-values.png",
    "singular-values-to-output.png",
    "singular-values-to-last.png",
    "curvature.png",
)


def write_jacobian_report(
    found: JacobianSpectra,
    folder: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    hessian: HessianEigenvalues | None = None,
) -> Path:
    """Write the page and its figures; return the page's path.

    Args:
        found: what was measured.
        folder: where to.
        title: headline.
        facts: label -> value, shown at the top.
        hessian: curvature, if it was measured.
    """
    sections = jacobian_sections(found)
    if hessian is not None:
        sections[-1:-1] = hessian_sections(DepthAxis(hessian.stages), hessian.names, hessian.largest)
    return write_page(Page(title, facts, summarize_jacobians(found), sections), folder)


def jacobian_sections(found: JacobianSpectra) -> list[Section]:
    """Return the sections of the page: blocks, from every block to the end, numbers."""
    depth = DepthAxis(found.stages)
    columns: dict[str, Any] = {"block": np.arange(len(found.names)), "name": found.names, **_columns(found.blocks, "")}
    ends = []
    if found.to_output is not None:
        columns |= _columns(found.to_output, "to_output_")
        what = "the Jacobian from the input of each block to the network's output"
        ends.append(_figure(depth, found.to_output, "singular-values-to-output", "From each block to the output", what))
    if found.to_last is not None:
        columns |= _columns(found.to_last, "to_last_")
        what = "the Jacobian from the input of each block to the output of the last block"
        ends.append(_figure(depth, found.to_last, "singular-values-to-last", "From each block to the last", what))
    one = "the Jacobian of each block (its output by its input)"
    return [
        Section(
            "Block by block",
            "The Jacobian says how a small change at the input of a part of the network changes its output; gradients "
            "go back through its transpose. Its singular values are the factors by which changes in different "
            "directions are stretched.",
            [_figure(depth, found.blocks, "singular-values", "Singular values of each block", one)],
        ),
        *([Section("To the end", "The product of the Jacobians of all blocks that follow.", ends)] if ends else []),
        Section("All numbers", "", tables=[Table("One row per block", columns, _meaning(columns))]),
    ]


def hessian_sections(depth: DepthAxis, names: Sequence[str], largest_eigenvalue: np.ndarray) -> list[Section]:
    """Return the section on curvature; the arguments are those of :func:`hessian_figure`."""
    said = ""
    if np.isfinite(largest_eigenvalue).any():
        block = int(np.nanargmax(largest_eigenvalue))
        said = f" The loss bends most for block {block} ({names[block]}): {readable(float(largest_eigenvalue[block]))}."
    columns: dict[str, Any] = {"block": np.arange(len(depth)), "name": list(names), "eigenvalue": largest_eigenvalue}
    return [
        Section(
            "Curvature",
            f"The Hessian holds the second derivatives of the loss.{said}",
            [hessian_figure(depth, largest_eigenvalue)],
            [Table("Largest eigenvalue of each block", columns)],
        )
    ]


def summarize_jacobians(found: JacobianSpectra) -> list[str]:
    """Return what the singular values show in sentences."""
    root = np.sqrt(found.blocks.mean_square)
    largest = found.blocks.largest
    if not np.isfinite(largest).all():
        return ["The Jacobian of some blocks is not finite: the signal overflowed there."]
    steepest = int(np.argmax(largest))
    network = found.network
    unsure = int(np.sum(~found.blocks.largest_converged()))
    typical = float(np.exp(np.mean(np.log(np.maximum(root, np.finfo(np.float64).tiny)))))
    return [
        f"A typical block multiplies a random change by {readable(typical)} (root mean square of its singular values; "
        f"geometric mean over the blocks): over all {len(root)} blocks that is {readable(typical ** len(root))}.",
        f"The most that a block stretches a change is {readable(largest[steepest])} times, in block {steepest}.",
        f"The whole network, from its images to its output, stretches a change at most {readable(network.largest[0])} "
        f"times and at least {readable(network.smallest[0])} times.",
        *(
            [f"In {unsure} blocks the largest value has not converged within 1 %: it is at least that."]
            if unsure
            else []
        ),
    ]


def _figure(depth: DepthAxis, spectra: Spectra, name: str, title: str, of: str) -> DepthFigure:
    low, middle, high = spectra.quantiles(LEVELS).T
    return singular_values_figure(
        depth, spectra.largest, spectra.smallest, middle, low, high, name=name, title=title, of=of
    )


def _columns(spectra: Spectra, prefix: str) -> dict[str, np.ndarray]:
    low, middle, high = spectra.quantiles(LEVELS).T
    values = {
        "largest": spectra.largest,
        "largest_residual": spectra.largest_residual,
        "smallest": spectra.smallest,
        "smallest_residual": spectra.smallest_residual,
        "quantile_10": low,
        "median": middle,
        "quantile_90": high,
        "mean_square": spectra.mean_square,
    }
    return {f"{prefix}{name}": column for name, column in values.items()}


_MEANING = {
    "largest": "largest singular value; a lower bound where it has not converged",
    "largest_residual": "there is a singular value within this distance of it",
    "smallest": "smallest singular value; an upper bound where it has not converged",
    "smallest_residual": "there is a singular value within this distance of it",
    "quantile_10": "a tenth of the singular values are below",
    "median": "half of them are below",
    "quantile_90": "nine tenths of them are below",
    "mean_square": "mean of their squares: 1 where lengths are kept",
}


def _meaning(columns: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{text}{', ' + of if of else ''}"
        for prefix, of in (("", ""), ("to_output_", "to the output"), ("to_last_", "to the last block"))
        for key, text in _MEANING.items()
        if (name := prefix + key) in columns
    }
