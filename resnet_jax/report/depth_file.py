"""depth.jsonl: the gradient norm at every block while a network trains; what its heat map is drawn from.

The first line names the blocks, ``{"blocks": [...], "stage": [...]}``; every other one is a step, ``{"step": 41,
"grad_norm": [...]}``.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import DamagedError, UsageError
from resnet_jax.instrument.probing import is_due
from resnet_jax.report.rows_file import RowsFile, check_step, read_rows
from resnet_jax.report.steady_file import Warn
from resnet_jax.runtime.events import NO_EVENTS, EventLog
from resnet_jax.training.observers import Observer

_log = logging.getLogger(__name__)


class DepthFile(Observer):
    """Writes a row every few steps, six digits a number; one that is not finite is written as null.

    Args:
        path: the file; rows after ``start_step`` are dropped first, so that a resumed run leaves no row twice. A
            missing first line is written.
        names: of the blocks.
        stages: of the blocks.
        start_step: updates done when this session begins.
        every: steps between rows; the first step is one.
        records: what the checkpoint that the session goes on from knows (:attr:`RunFacts.records`).
        warn: is told, in a line, what is wrong with the file.
        events: likewise.

    Raises:
        OSError: the file cannot be written at all; with its path.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        stages: np.ndarray,
        *,
        start_step: int,
        every: int,
        records: Mapping[str, Any] | None = None,
        warn: Warn = _log.warning,
        events: EventLog = NO_EVENTS,
    ) -> None:
        self._every, self._name = every, path.name
        self._file = RowsFile(
            path,
            functools.partial(check_row, blocks=len(names)),
            start_step=start_step,
            position=(records or {}).get(path.name),
            header={"blocks": list(names), "stage": stages.tolist()},
            warn=warn,
            events=events,
        )

    def on_blocks(self, step: int, norms: np.ndarray, member: int = 0) -> None:
        """Write the row of ``step``, from 1, if it is due; of a run alone, that is of member 0."""
        if is_due(step - 1, self._every):
            values = [float(f"{norm:.6g}") if math.isfinite(norm) else None for norm in norms.tolist()]
            self._file.write({"step": step, "grad_norm": values}, step)

    def position(self) -> Mapping[str, Any]:
        """Return how far the file has come."""
        return {self._name: self._file.position()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_row(row: dict[str, Any], blocks: int | None = None) -> str | None:
    """Return what is wrong with a row, or with the header; None if nothing is.

    Args:
        row: one line.
        blocks: how many blocks the network has; None: any number.
    """
    if "blocks" in row:
        names, stages = row["blocks"], row.get("stage")
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return "has blocks that are no names"
        if not (isinstance(stages, list) and len(stages) == len(names) and all(type(s) is int for s in stages)):
            return "has no stage for every block"
        return None
    norms = row.get("grad_norm")
    if not isinstance(norms, list) or not all(norm is None or type(norm) in (int, float) for norm in norms):
        return "has no gradient norms"
    if blocks is not None and len(norms) != blocks:
        return f"has the norms of {len(norms)} blocks, and the network has {blocks}"
    return check_step(row)


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

    Lines that are no rows are left out, and named in a warning.

    Raises:
        UsageError: there is none.
        DamagedError: its first line, which names the blocks, is missing or of other blocks than the rows.
    """
    rows = read_rows(path, check_row)
    if not rows:
        raise UsageError(f"{path} has no gradients through depth: train with train.depth_every '10 steps'")
    header, rows = rows[0], rows[1:]
    if "blocks" not in header:
        raise DamagedError(
            f"{path} is damaged: its first line does not name the blocks. Going on with the run writes it again"
        )
    names = tuple(header["blocks"])
    for row in rows:
        if "blocks" in row or len(row["grad_norm"]) != len(names):
            at = f"its row of step {row['step']:,}" if "step" in row else "a later line"
            raise DamagedError(f"{path} is damaged: {at} is not of the {len(names)} blocks that its first line names")
    steps, norms = [row["step"] for row in rows], [row["grad_norm"] for row in rows]
    grad_norm = np.asarray(norms, np.float64).reshape(len(steps), len(names))
    return GradientHistory(names, np.asarray(header["stage"]), np.asarray(steps, np.int64), grad_norm)
