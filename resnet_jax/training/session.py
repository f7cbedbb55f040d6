"""The bookkeeping of one call of the loop: metrics in flight, clocks, progress and observers."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from resnet_jax.training.diverged import Diverged
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.feeds import Metrics
from resnet_jax.training.observers import Row, positions, tell
from resnet_jax.training.plan import Plan
from resnet_jax.training.progress import EpochSums, MemberProgress, Progress, Reporting, task_sums
from resnet_jax.training.spikes import Spiked

#: The maximum number of calls in flight before the loop waits for the oldest. Metrics are read with this delay, so the
#: device always has work while the host reads.
IN_FLIGHT = 3

#: The metrics of a probed step that are arrays.
BLOCKS, TASKS = "block_grad_norm", "task_cosine"


@dataclasses.dataclass(frozen=True)
class Ending:
    """The outcome of a boundary.

    Attributes:
        improved: members whose validation is the best so far.
        stopped: members that stopped early here.
    """

    improved: tuple[int, ...] = ()
    stopped: tuple[int, ...] = ()


class Session:
    """Reads metrics, accumulates them for every member, and calls observers.

    Args:
        plan: the plan of the run.
        task: what metrics mean.
        progress: the current progress; with one member for a single run.
        observers: called in this order.
        population: whether metrics have an axis of members and rows say which member they belong to.
    """

    def __init__(
        self, plan: Plan, task: Reporting, progress: Progress, observers: Sequence[Any], *, population: bool
    ) -> None:
        self.plan, self._task, self._observers, self._population = plan, task, observers, population
        self._before, self._members = progress, list(progress.members)
        self._seconds, self._timed_examples, self.finished = (
            progress.seconds,
            progress.timed_examples,
            progress.finished,
        )
        self._in_flight: deque[tuple[int, int, Metrics]] = deque()
        self._state: Any = None
        self._reading: tuple[int, Mapping[str, np.ndarray]] = (0, {})
        self._losses = deque(progress.losses, maxlen=plan.spikes.window)
        self._began = time.monotonic()
        self._clock: float | None = None  # None until the first call is done: compilation is not timed

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds over all sessions."""
        return self._before.elapsed + time.monotonic() - self._began

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit has passed."""
        return self.plan.seconds is not None and self.elapsed >= self.plan.seconds

    @property
    def progress(self) -> Progress:
        """The current progress."""
        return Progress(
            tuple(self._members),
            self._seconds,
            self._timed_examples,
            self.elapsed,
            self.finished,
            positions(self._observers),
            tuple(self._losses),
            self._before.rollbacks,
        )

    @property
    def running(self) -> list[int]:
        """The members that have neither diverged nor stopped."""
        return [index for index, member in enumerate(self._members) if member.finished is None]

    @property
    def stopped(self) -> list[int]:
        """The members that stopped early."""
        return [index for index, member in enumerate(self._members) if member.finished == "early stopping"]

    def sent(self, first: int, count: int, metrics: Metrics, state: Any = None) -> None:
        """Take the metrics of a call just dispatched and the state after it, and read the metrics that are due."""
        self._state = state
        self._in_flight.append((first, count, metrics))
        if self._clock is None:
            self._read_oldest()
        while len(self._in_flight) > IN_FLIGHT:
            self._read_oldest()

    def drain(self) -> None:
        """Read all metrics still in flight."""
        while self._in_flight:
            self._read_oldest()

    def resume_clock(self) -> None:
        """Exclude what happened since the last step (evaluation, saving) from the training time."""
        self._clock = time.perf_counter()

    def finish(self, reason: str) -> None:
        """Record why the run is over, if that is not recorded yet."""
        self.finished = self.finished or reason

    def boundary(self, step: int, *, ends_epoch: bool, results: Sequence[Evaluation] | None) -> Ending:
        """Report an epoch, a validation or both, and return what follows from the latter.

        Args:
            step: number of updates done.
            ends_epoch: whether an epoch, or the run, ends here.
            results: validation of every member, if there was one.
        """
        rows: dict[int, Row] = {}
        improved, stopped = [], []
        for index in self.running:
            row = self._row(index, step)
            if ends_epoch:
                row |= self._members[index].epoch_sums.means(self._task)
                self._replace(index, epoch_sums=EpochSums())
                if not self._population and self._seconds > 0:
                    row["images_per_second"] = self._timed_examples / self._seconds
            if results is not None:
                row |= _validation_row(results[index])
                better, stops = self._judge(index, step, results[index].metrics[self._task.headline])
                improved += [index] if better else []
                stopped += [index] if stops else []
            rows[index] = row
        for row in rows.values():
            tell(self._observers, "on_epoch" if ends_epoch else "on_validation", row)
        if ends_epoch and self._population:
            tell(self._observers, "on_members", rows)
        if step == self.plan.total_steps:
            self.finish("steps")
        self._finish_with_members()
        return Ending(tuple(improved), tuple(stopped))

    def _judge(self, index: int, step: int, value: float) -> tuple[bool, bool]:
        """Process a validation; return whether it is the best so far, and whether the member stops here."""
        rule = self.plan.early_stopping or EarlyStopping()
        watch = dataclasses.replace(rule, mode=rule.mode or self._task.mode).update(self._members[index].watch, value)
        best = watch.wait == 0
        self._replace(index, watch=watch, best_step=step if best else self._members[index].best_step)
        stops = watch.should_stop and step < self.plan.total_steps
        if stops:
            self._replace(index, finished="early stopping", finished_at=step)
        return best, stops

    def _finish_with_members(self) -> None:
        """End the run if none of its members continues."""
        if not self.running:
            self.finish("early stopping" if self.stopped else "all diverged")

    def _row(self, index: int, step: int) -> Row:
        member = {"member": index} if self._population else {}
        return {**member, "step": step, "epoch": step / self.plan.steps_per_epoch}

    def _replace(self, index: int, **changes: Any) -> MemberProgress:
        self._members[index] = dataclasses.replace(self._members[index], **changes)
        return self._members[index]

    def _read_oldest(self) -> None:
        first, count, arrays = self._in_flight.popleft()
        columns = self._columns(arrays)
        self._reading = first, columns
        now = time.perf_counter()
        timed, self._clock = self._clock, now
        for number in range(count):
            step = first + number + 1
            for index in self.running:
                scalars = {name: float(value[number, index]) for name, value in columns.items() if value.ndim == 2}
                self._read(index, step, scalars)
                if BLOCKS in columns:
                    tell(self._observers, "on_blocks", step, columns[BLOCKS][number, index], index)
                if TASKS in columns:
                    tell(self._observers, "on_task_gradients", step, columns[TASKS][number, index], index)
                if timed is not None:
                    self._timed_examples += scalars["count"]
        if timed is not None:
            self._seconds += now - timed
        self._finish_with_members()

    def _made_after(self, step: int, index: int) -> int:
        """Return how many updates have changed a member's state since the step just read, including those in flight."""
        reads = [self._reading, *((first, self._columns(arrays)) for first, _, arrays in self._in_flight)]
        made = 0
        for first, columns in reads:
            still = columns["rejected"] + columns.get("skipped", np.zeros_like(columns["rejected"]))
            made += sum(not still[row, index] for row in range(max(step - first, 0), len(still)))
        return made

    def _columns(self, arrays: Metrics) -> dict[str, np.ndarray]:
        """Return metrics as arrays (updates, members, ...)."""
        arrays = jax.device_get(arrays)
        leading = np.ndim(arrays["count"])  # axes of updates and of members, where there are any
        return {
            name: np.reshape(value, (-1, len(self._members), *np.shape(value)[leading:]))
            for name, value in arrays.items()
        }

    def _read(self, index: int, step: int, metrics: dict[str, float]) -> None:
        """Process the metrics of one step of one member."""
        member, rejected = self._members[index], 0
        if metrics["rejected"]:
            rejected = member.rejected + 1
            row = {**self._row(index, step), "loss": metrics["loss"], "grad_norm": metrics["grad_norm"]}
            tell(self._observers, "on_reject", {**row, "rejected": rejected})
            if rejected > self.plan.on_reject.tolerate:
                self._reject(index, step, metrics)
                return
        skipped = bool(metrics.get("skipped"))
        if self.plan.spikes.factor is not None and not (skipped or rejected):
            self._look_for_spike(step, metrics["loss"])
        sums = member.epoch_sums.skip(metrics) if skipped or rejected else member.epoch_sums.add(metrics)
        member = self._replace(index, epoch_sums=sums, skipped=member.skipped + skipped, rejected=rejected)
        row = {
            **self._row(index, step),
            "loss": metrics["loss"],
            **self._task.train_metrics(task_sums(metrics), metrics["count"]),
            "grad_norm": metrics["grad_norm"],
        }
        if "loss_scale" in metrics:
            row |= {"loss_scale": metrics["loss_scale"], "skipped": member.skipped}
        if rejected:
            row["rejected"] = rejected
        tell(self._observers, "on_step", row)

    def _look_for_spike(self, step: int, loss: float) -> None:
        """Check a loss for a spike.

        Raises:
            Spiked: if it is far above the losses before, and the run may go back once more.
        """
        rule, gone_back = self.plan.spikes, self._before.rollbacks
        if step <= self.plan.warmup or len(gone_back) >= rule.rollbacks:
            return
        if rule.is_spike(loss, self._losses):
            spiked = Spiked(step, self.plan.back_from(step), loss, statistics.median(self._losses))
            spiked.rollbacks = (*gone_back, spiked.to)
            spiked.seconds, spiked.timed_examples, spiked.elapsed = self._seconds, self._timed_examples, self.elapsed
            raise spiked
        self._losses.append(loss)

    def _reject(self, index: int, step: int, metrics: dict[str, float]) -> None:
        """Do what the plan says about a rejected update.

        Raises:
            Diverged: if it says to stop.
        """
        error = Diverged(step, metrics, self.plan.on_reject.tolerate, index if self._population else None)
        error.state, error.made_after = self._state, self._made_after(step, index)
        match self.plan.on_reject.then:
            case "stop":
                raise error
            case "record":
                self._replace(index, finished="diverged", finished_at=step)
                row = {**self._row(index, step), "loss": metrics["loss"], "grad_norm": metrics["grad_norm"]}
                tell(self._observers, "on_divergence", row)
                tell(self._observers, "on_fault", error)


def _validation_row(result: Evaluation) -> Row:
    return {"val_loss": result.loss, **{f"val_{name}": value for name, value in result.metrics.items()}}
