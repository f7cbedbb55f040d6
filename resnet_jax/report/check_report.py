"""The propagation check for people: a table in the terminal, and a page with two figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.depth.checking import Direction, PropagationCheck
from resnet_jax.report.depth_axes import DepthAxis, DepthFigure, Line, Panel, draw_depth
from resnet_jax.report.depth_page import Page, Section, Table, write_page


def check_table(found: PropagationCheck) -> str:
    """Return the numbers at the first and last block of every stage, as lines of text."""
    starts = np.flatnonzero(np.diff(found.stage, prepend=-1))
    rows = sorted({*starts.tolist(), *(starts[1:] - 1).tolist(), len(found.names) - 1})
    width = max(len(found.names[row]) for row in rows)
    head = f"{'block':>5}  {'':<{width}}  {'signal':>9}  {'predicted':>9}  {'gradient':>9}  {'predicted':>9}"
    lines = [head]
    for row in rows:
        cells = []
        # of a block: its output's mean square, and the norm of the gradient at its input
        for one, at in ((found.signal, row + 1), (found.gradient, row)):
            root = np.sqrt if one is found.gradient else np.asarray
            cells.append(f"{root(one.measured[at]):>9.3g}")
            cells.append(f"{'-' if one.predicted is None else format(float(root(one.predicted[at])), '.3g'):>9}")
        lines.append(f"{row:>5}  {found.names[row]:<{width}}  " + "  ".join(cells))
    lines.append("signal: mean square of the block's output; gradient: its norm at the block's input, 1 at the end")
    return "\n".join(lines)


def save_check(found: PropagationCheck, path: Path) -> None:
    """Write ``check.npz``: the numbers of every block.

    Raises:
        OSError: it cannot be written.
    """
    columns = {name: np.asarray(values) for name, values in _columns(found).items()}
    with path.open("wb") as file:
        np.savez(file, stage=found.stage, **columns)  # pyright: ignore[reportArgumentType]


def _columns(found: PropagationCheck) -> dict[str, Any]:
    columns: dict[str, Any] = {"block": np.arange(len(found.names)), "name": found.names}
    columns |= {f"signal_{name}": values for name, values in _per_block(found.signal, 1).items()}
    return columns | {f"gradient_{name}": np.sqrt(values) for name, values in _per_block(found.gradient, 0).items()}


def write_check_report(found: PropagationCheck, folder: Path, *, title: str, facts: Mapping[str, str]) -> Path:
    """Write ``report.html`` and its figures; return the page's path."""
    signal, gradient = _per_block(found.signal, 1), _per_block(found.gradient, 0)
    depth = DepthAxis(found.stage)
    how = "Dashed: what mean-field theory predicts. " if not found.no_prediction else f"({found.no_prediction}.) "
    forward = _figure(
        depth, "signal", "Signal through depth", "mean square", signal,
        f"Mean square of every block's output at initialization, on a log axis. {how}A straight slope is exponential "
        "growth or decay: that is what fails. A curve that flattens is harmless.",
    )  # fmt: skip
    backward = _figure(
        depth, "check-gradient", "Gradient through depth", "gradient norm",
        {name: np.sqrt(values) for name, values in gradient.items()},
        f"Norm of the gradient at every block's input, relative to the last block's output. {how}Gradients travel from "
        "right to left.",
    )  # fmt: skip
    verdict = "Passed." if found.ok else "Failed."
    sections = [
        Section("Forward and backward", "", [forward, backward]),
        Section("All numbers", "", tables=[Table("One row per block", _columns(found))]),
    ]
    return write_page(Page(title, facts, [verdict, *found.sentences], sections), folder)


def _per_block(one: Direction, shift: int) -> dict[str, np.ndarray]:
    blocks = slice(shift, len(one.measured) - 1 + shift)
    values = {"measured": one.measured[blocks]}
    return values if one.predicted is None else {**values, "predicted": np.asarray(one.predicted)[blocks]}


def _figure(
    depth: DepthAxis, name: str, title: str, label: str, values: Mapping[str, np.ndarray], caption: str
) -> DepthFigure:
    lines = [Line(kind, numbers) for kind, numbers in values.items()]
    return draw_depth(name, title, caption, depth, [Panel(label, lines, "log")])
