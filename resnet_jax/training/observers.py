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
    """What an observer may want to know of a run before it begins.

    Attributes:
        name: of the run, for titles.
        run_dir: where its files are.
        config: its configuration, nested plain values.
        start_step: updates done when this session begins; more than 0 in a resumed run.
        total_steps: updates of the whole run.
        steps_per_epoch: updates of a pass over the training set.
        batch_size: examples of an update.
        log_every: how often steps are logged.
        records: what :meth:`Observer.position` said when the state that this session goes on from was saved, of all
            observers; empty at the start of a run, and of checkpoints that were written before there was any.
        events: takes what happens to files: ``events.add("damaged", what=..., reason=...)``.
        warn: shows a line to whoever watches the run.
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
    """Training observer. Inherit from it and write the methods that matter; all of them do nothing here.

    Steps are 1-based in all rows: updates done. In a population every row also has ``member``, from 0.
    """

    def on_start(self, facts: RunFacts) -> None:
        """Called once, before the first step."""

    def on_rollback(self, facts: RunFacts) -> None:
        """Called after a loss spike, when the run goes on from an earlier step, ``facts.start_step``."""

    def on_step(self, row: Row) -> None:
        """Called for every step: step, epoch (fractional), loss, the task's metrics in training (accuracy), grad_norm.

        With a loss scale also loss_scale and skipped, the steps skipped so far; after a rejected step that is tolerated
        also rejected, how many in a row. Such steps may have a loss and a grad_norm that are not finite.
        """

    def on_epoch(self, row: Row) -> None:
        """Called at the end of every epoch, and of the run: step, epoch, the means in training, ``val_`` metrics."""

    def on_validation(self, row: Row) -> None:
        """Called after a validation within an epoch: step, epoch, val_loss and the other ``val_`` metrics."""

    def on_blocks(self, step: int, norms: np.ndarray, member: int = 0) -> None:
        """Called where a step measured the norm of the gradient at every block, (blocks,)."""

    def on_task_gradients(self, step: int, cosines: np.ndarray, member: int = 0) -> None:
        """Called likewise, of a task of several: the cosine between their gradients at every block, (blocks, pairs)."""

    def on_reject(self, row: Row) -> None:
        """Called for every rejected update, before what follows from it: step, epoch, loss, grad_norm, and rejected."""

    def on_divergence(self, row: Row) -> None:
        """Called when a member of a population has diverged: step, epoch, loss and grad_norm."""

    def on_fault(self, error: Diverged) -> None:
        """Called after on_divergence: the same as an error would say it, with the states that the next step takes."""

    def on_members(self, rows: Mapping[int, Row]) -> None:
        """Called at the end of every epoch of a population, after on_epoch: the rows of all members that still run."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Called once the run is finished and tested; not where it is interrupted."""

    def position(self) -> Mapping[str, Any]:
        """Return how far the files have come that are written here, name -> plain values; called for every checkpoint.

        What they have in it was told before; :attr:`RunFacts.records` gives it back to the session that resumes there,
        which can so leave them as they were then, without a row lost or written twice.
        """
        return {}

    def close(self) -> None:
        """Called at the very end, however it came."""


def positions(observers: Iterable[Any]) -> dict[str, Any]:
    """Return the positions of all observers that have some."""
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
