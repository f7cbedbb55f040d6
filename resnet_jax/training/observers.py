"""Training observers: objects called after steps, epochs and validations."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.runtime.events import NO_EVENTS, EventLog
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.diverged import Diverged

Row = dict[str, float]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What an observer may want to know about a run before it begins.

    Attributes:
        name: name of the run, for titles.
        run_dir: the run directory.
        config: the configuration, as nested plain values.
        start_step: number of updates done when this session begins; more than 0 in a resumed run.
        total_steps: number of updates of the whole run.
        steps_per_epoch: updates per pass over the training set.
        batch_size: examples per update.
        log_every: how often steps are logged.
        records: what :meth:`Observer.position` of all observers returned when the state that this session resumes from
            was saved; empty at the start of a run, and for older checkpoints.
        events: receives events about files: ``events.add("damaged", what=..., reason=...)``.
        warn: shows a line to the user.
    """

    name: str
    run_dir: Path
    config: Mapping[str, Any]
    start_step: int
    total_steps: int
    steps_per_epoch: int
    batch_size: int
    log_every: Cadence
    records: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    events: EventLog = NO_EVENTS
    warn: Callable[[str], None] = _log.warning


class Observer:
    """Training observer. Inherit from it and override the methods you need; all of them do nothing here.

    Steps in all rows are 1-based: the number of updates done. In a population every row also has ``member``, counted
    from 0.
    """

    def on_start(self, facts: RunFacts) -> None:
        """Called once, before the first step."""

    def on_rollback(self, facts: RunFacts) -> None:
        """Called after a loss spike, when the run continues from an earlier step, ``facts.start_step``."""

    def on_step(self, row: Row) -> None:
        """Called for every step: step, epoch (fractional), loss, the task's training metrics (accuracy), grad_norm.

        With a loss scale, also loss_scale and skipped, the number of skipped steps so far; after a tolerated rejected
        step also rejected, the number of consecutive ones. Such steps may have a non-finite loss and grad_norm.
        """

    def on_epoch(self, row: Row) -> None:
        """Called at the end of every epoch, and of the run: step, epoch, the training means, ``val_`` metrics."""

    def on_validation(self, row: Row) -> None:
        """Called after a validation within an epoch: step, epoch, val_loss and the other ``val_`` metrics."""

    def on_blocks(self, step: int, norms: np.ndarray, member: int = 0) -> None:
        """Called when a step has measured the norm of the gradient at every block, (blocks,)."""

    def on_task_gradients(self, step: int, cosines: np.ndarray, member: int = 0) -> None:
        """Called likewise for several tasks: the cosine between their gradients at every block, (blocks, pairs)."""

    def on_reject(self, row: Row) -> None:
        """Called for every rejected update, before its consequences: step, epoch, loss, grad_norm, and rejected."""

    def on_divergence(self, row: Row) -> None:
        """Called when a member of a population has diverged: step, epoch, loss and grad_norm."""

    def on_fault(self, error: Diverged) -> None:
        """Called after on_divergence: the same in the words of an error, with the states that the next step takes."""

    def on_members(self, rows: Mapping[int, Row]) -> None:
        """Called at the end of every epoch of a population, after on_epoch: the rows of all members still running."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Called once the run is finished and tested; not if it is interrupted."""

    def position(self) -> Mapping[str, Any]:
        """Return how far the files written here have come, name -> plain values; called for every checkpoint.

        The data up to there has been reported before. :attr:`RunFacts.records` returns it to the session that resumes
        at the checkpoint, which can thus restore the files to that point, without a lost or repeated row.
        """
        return {}

    def close(self) -> None:
        """Called at the very end, however the run ended."""


def positions(observers: Iterable[Any]) -> dict[str, Any]:
    """Return the positions of all observers that have any."""
    found: dict[str, Any] = {}
    for observer in observers:
        method = getattr(observer, "position", None)
        found |= {} if method is None else method()
    return found


def tell(observers: Iterable[Any], what: str, *arguments: Any) -> None:
    """Call one method of every observer that has it: ``tell(observers, "on_step", row)``."""
    for observer in observers:
        method = getattr(observer, what, None)
        if method is not None:
            method(*arguments)
