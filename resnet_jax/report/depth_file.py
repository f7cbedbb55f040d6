"""depth.jsonl: the gradient norm at every block while a network trains; what its heat map is drawn from.

The first line names the blocks, ``{"blocks": [...], "stage": [...]}``; every other one is a step, ``{"step": 41,
"grad_norm": [...]}``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.instrument.probing import is_due
from resnet_jax.report.metrics_file import Appended, keep_until, read_metrics
from resnet_jax.training.observers import Observer


class DepthFile(Observer):
    """Writes a row every few steps, six digits a number; one that is not finite is written as null.

    Args:
        path: the file; rows after ``start_step`` are dropped first, so that a resumed run leaves no row twice.
        names: of the blocks.
        stages: of the blocks.
        start_step: updates done when this session begins.
        every: steps between rows; the first step is one.
    """

    def __init__(self, path: Path, names: Sequence[str], stages: np.ndarray, *, start_step: int, every: int) -> None:
        self._every = every
        keep_until(path, start_step)
        begun = path.stat().st_size > 0
        self._file = Appended(path)
        if not begun:
            self._write({"blocks": list(names), "stage": stages.tolist()})

    def on_blocks(self, step: int, norms: np.ndarray, member: int = 0) -> None:
        """Write the row of ``step``, from 1, if it is due; of a run alone, that is of member 0."""
        if is_due(step - 1, self._every):
            values = [float(f"{norm:.6g}") if math.isfinite(norm) else None for norm in norms.tolist()]
            self._write({"step": step, "grad_norm": values})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row))


@dataclasses.dataclass(frozen=True)
class GradientHistory:
    """The gradient norm at every block, over a run.

    Attributes:
        names: of the blocks, in depth order.
        stage: of each block, from 0, int (blocks,).
        steps: of the rows, from 1, int (rows,).
        grad_norm: norm of dL/dx, x the input of each block, (rows, blocks); NaN for one that was not finite.
    """

    names: tuple[str, ...]
    stage: np.ndarray
    steps: np.ndarray
    grad_norm: np.ndarray


def draw_history(history: GradientHistory, path: Path, *, title: str) -> None:
    """Draw the gradient norm over depth and time, in colour.

    Args:
        history: as :func:`read_depth` gives it.
        path: PNG to write.
        title: headline.
    """
    from resnet_jax.report.depth_axes import DepthAxis
    from resnet_jax.report.depth_instruments import heat_map_figure

    figure = heat_map_figure(DepthAxis(history.stage), history.steps.tolist(), history.grad_norm, title=title)
    figure.save_png(path.parent).replace(path)


def read_depth(path: Path) -> GradientHistory:
    """Read a depth.jsonl; a run that ended in its first step has no rows.

    Raises:
        UsageError: there is none.
    """
    rows = read_metrics(path)
    if not rows or "blocks" not in rows[0]:
        raise UsageError(f"{path} has no gradients through depth: train with train.depth_every '10 steps'")
    names, (steps, norms) = tuple(rows[0]["blocks"]), ([row[k] for row in rows[1:]] for k in ("step", "grad_norm"))
    grad_norm = np.asarray(norms, np.float64).reshape(len(steps), len(names))
    return GradientHistory(names, np.asarray(rows[0]["stage"]), np.asarray(steps, np.int64), grad_norm)
