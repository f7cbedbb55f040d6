"""Observers of the populations of an ablation's cell: rows of metrics and depth by seed, and one line per epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.instrument.probing import chart_blocks
from resnet_jax.report.depth_file import DepthFile
from resnet_jax.report.metrics_file import check_row
from resnet_jax.report.rows_file import RowsFile
from resnet_jax.runs.build import RunComponents
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.faults import explain_member
from resnet_jax.runtime import processes
from resnet_jax.tasks.task import SHARES
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.diverged import Diverged
from resnet_jax.training.feeds import Feed
from resnet_jax.training.observers import Observer, Row, positions

Say = Callable[[str], None]


class CellRows(Observer):
    """Writes metrics.jsonl of a cell, one row per epoch and seed and one per divergence, and prints a line per epoch.

    Rows of these seeds after ``start_step`` are first dropped, so that a resumed cell has no row twice.
    """

    def __init__(
        self,
        path: Path,
        seeds: tuple[int, ...],
        *,
        start_step: int,
        say: Say,
        parts: RunComponents,
        records: Mapping[str, Any],
    ) -> None:
        self._seeds, self._say, self._headline = seeds, say, parts.task.headline
        self._epochs = -(-parts.plan.total_steps // parts.plan.steps_per_epoch)
        self._name = path.name
        self._file = RowsFile(
            path,
            check_row,
            start_step=start_step,
            position=records.get(path.name),
            mine=lambda row: row.get("seed") in seeds,
            warn=say,
        )

    def on_epoch(self, row: Row) -> None:
        """Write the row."""
        self._write("epoch", row)

    def on_validation(self, row: Row) -> None:
        """Write the row."""
        self._write("validation", row)

    def on_members(self, rows: Mapping[int, Row]) -> None:
        """Print the progress of the members."""
        if rows:
            first = next(iter(rows.values()))
            numbers = [f"loss {_spread([row['loss'] for row in rows.values()], '.4f')}"]
            validated = f"val_{self._headline}"
            if validated in first and validated != "val_loss":
                form = ".2%" if self._headline in SHARES else ".4g"
                found = _spread([row[validated] for row in rows.values()], form)
                numbers.append(f"val {self._headline.replace('_', ' ')} {found}")
            epoch = math.ceil(first["epoch"])
            self._say(f"  epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}  " + "  ".join(numbers))

    def on_divergence(self, row: Row) -> None:
        """Write the row."""
        self._write("diverged", row)
        self._say(f"  seed {self._seeds[int(row['member'])]} diverged at step {int(row['step']):,}")

    def position(self) -> Mapping[str, Any]:
        """Return how far the file has come."""
        return {self._name: self._file.position()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, kind: str, row: Row) -> None:
        seed = self._seeds[int(row["member"])]
        rest = {key: value for key, value in row.items() if key != "member"}
        self._file.write({"kind": kind, "seed": seed, **rest}, int(row["step"]))


class CellDepthFiles(Observer):
    """Writes depth-seedN.jsonl of every seed: the gradient norm at every block."""

    def __init__(
        self,
        run: RunDirectory,
        train: TrainConfig,
        seeds: tuple[int, ...],
        *,
        start_step: int,
        say: Say,
        parts: RunComponents,
        image_shape: tuple[int, ...],
        records: Mapping[str, Any],
    ) -> None:
        chart = chart_blocks(parts.model, image_shape, train.batch_size // train.accumulate, BlockNames())
        self._files = [
            DepthFile(
                run.depth.with_name(f"depth-seed{seed}.jsonl"),
                chart.names,
                chart.stages,
                start_step=start_step,
                every=train.depth_steps(parts.plan.steps_per_epoch) or 1,
                records=records,
                warn=say,
            )
            for seed in seeds
        ]

    def on_blocks(self, step: int, norms: np.ndarray, member: int = 0) -> None:
        """Write the row of one seed."""
        self._files[member].on_blocks(step, norms)

    def position(self) -> Mapping[str, Any]:
        """Return how far the files have come."""
        return positions(self._files)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


@dataclasses.dataclass(frozen=True)
class BrokenCell:
    """What :mod:`resnet_jax.runs.faults` needs from a cell."""

    config: RunConfig
    images: RunData
    parts: RunComponents
    run: RunDirectory
    feed: Feed
    say: Say


class CellFault(Observer):
    """Writes fault.json of a cell: where the first diverging seed went wrong. It needs a compilation, so only one does.

    Args:
        cell: the cell in training.
        seeds: seeds of the population.
    """

    def __init__(self, cell: BrokenCell, seeds: tuple[int, ...]) -> None:
        self._cell, self._seeds = cell, seeds
        self._known = processes.from_main(cell.run.fault.exists())  # of other seeds of the cell

    def on_fault(self, error: Diverged) -> None:
        """Diagnose the first fault, and print the finding."""
        if self._known or error.member is None:
            return
        self._known = True
        if found := explain_member(self._cell, error):
            self._cell.say(f"  seed {self._seeds[error.member]}: {found}; details are in {self._cell.run.fault}")


def _spread(values: list[float], form: str) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:{form}}"
    return f"{mean:{form}} ({min(values):{form}} to {max(values):{form}})"
