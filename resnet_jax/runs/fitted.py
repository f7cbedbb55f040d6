"""What ``fit`` returns: the result of a run, its history, and its network."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.outcome import Summary
from resnet_jax.runs.trained import TrainedRun, load_run


@dataclasses.dataclass(frozen=True)
class History:
    """The rows of a run over all its sessions, oldest first: dictionaries as in metrics.jsonl, without their kind.

    Attributes:
        epochs: one row per epoch: step, epoch, the training means and, if validated, ``val_`` metrics.
        steps: one row per logged step: step, epoch, loss, metrics, grad_norm, learning_rate.
        validations: one row per validation within an epoch.
    """

    epochs: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]

    @classmethod
    def read(cls, metrics: Path) -> History:
        """Read a metrics.jsonl."""
        kinds: dict[str, list[dict[str, Any]]] = {"epoch": [], "train": [], "validation": []}
        for row in read_metrics(metrics):
            kinds.setdefault(row["kind"], []).append({name: row[name] for name in row if name != "kind"})
        return cls(kinds["epoch"], kinds["train"], kinds["validation"])


@dataclasses.dataclass(frozen=True)
class Fit:
    """A finished run.

    Attributes:
        summary: its result; ``summary.run_dir`` is the run directory.
    """

    summary: Summary

    @functools.cached_property
    def history(self) -> History:
        """The history, including sessions before the run was resumed."""
        return History.read(RunDirectory(Path(self.summary.run_dir)).metrics)

    @functools.cached_property
    def trained(self) -> TrainedRun:
        """The network with the weights that were tested, loaded on first use."""
        return load_run(self.summary.run_dir)
