"""What ``fit`` returns: the result of a run, how it came about, and its network."""

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
    """The rows of a run, oldest first, of all its sessions: dictionaries as in metrics.jsonl, without their kind.

    Attributes:
        epochs: a row for every epoch: step, epoch, the means in training and, where validated, ``val_`` metrics.
        steps: a row for every logged step: step, epoch, loss, metrics, grad_norm, learning_rate.
        validations: a row for every validation within an epoch.
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
        summary: its result; ``summary.run_dir`` is where everything is.
    """

    summary: Summary

    @functools.cached_property
    def history(self) -> History:
        """How it came about, also before it was resumed."""
        return History.read(RunDirectory(Path(self.summary.run_dir)).metrics)

    @functools.cached_property
    def trained(self) -> TrainedRun:
        """The network with its weights, those that were tested, loaded on first use."""
        return load_run(self.summary.run_dir)
