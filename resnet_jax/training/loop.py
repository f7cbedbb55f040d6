"""The loop around the compiled step: feed, fetch, evaluate, save, stop. It knows no files and prints nothing."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import numpy as np

from resnet_jax.errors import RunError
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.progress import EpochSums, Progress
from resnet_jax.training.state import TrainState

if TYPE_CHECKING:  # Orbax is slow to import, and the loop runs without it
    from resnet_jax.training.checkpoint import Checkpoints

#: Calls of the step that may be on their way to the device before the loop waits for the oldest. Metrics are read this
#: late, so the device always has work while the host reads.
IN_FLIGHT = 3

#: The metric of a step with a probe that is an array.
BLOCKS = "block_grad_norm"


@runtime_checkable
class Observer(Protocol):
    """Somebody who is told how training goes. Steps are 1-based in all rows: updates done."""

    def on_step(self, row: dict[str, float]) -> None:
        """Hear of one step: step, epoch (fractional), loss, accuracy, grad_norm; with a loss scale also loss_scale and
        skipped, the steps skipped so far. A step that is skipped may have a loss and a grad_norm that are not finite.
        """
        ...

    def on_epoch(self, row: dict[str, float]) -> None:
        """Hear of one epoch: step, epoch, the training means and, where evaluated, val_loss and val_accuracy."""
        ...


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train and what to do on the way.

    Attributes:
        total_steps: updates of the whole run.
        steps_per_epoch: updates of one pass over the data.
        eval_every: epochs between validations and checkpoints; the end of the run is always one.
        early_stopping: rule on the validation accuracy; None only records the best.
        steps_per_call: updates that one call of the train step makes at most.
    """

    total_steps: int
    steps_per_epoch: int
    eval_every: int = 1
    early_stopping: EarlyStopping | None = None
    steps_per_call: int = 1

    def calls(self, start: int) -> Iterator[tuple[int, int]]:
        """Yield (updates done before, updates made) of every call from update ``start`` on; none passes an epoch's end.

        >>> list(Plan(total_steps=10, steps_per_epoch=7, steps_per_call=4).calls(1))
        [(1, 4), (5, 2), (7, 3)]
        """
        while start < self.total_steps:
            ends_epoch = (start // self.steps_per_epoch + 1) * self.steps_per_epoch
            count = min(self.steps_per_call, ends_epoch - start, self.total_steps - start)
            yield start, count
            start += count


class Interrupted(Exception):
    """Training was asked to stop and has saved its state; ``step`` updates are done."""

    def __init__(self, step: int, request: StopRequest):
        super().__init__(f"stopped after step {step}")
        self.step, self.request = step, request


def train(
    state: TrainState,
    *,
    plan: Plan,
    train_step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Callable[[int, int], Iterator[Any]],
    evaluate: Callable[[TrainState], Evaluation] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
    observers: Sequence[Observer] = (),
    stop: StopRequest | None = None,
    on_blocks: Callable[[int, np.ndarray], None] | None = None,
) -> tuple[TrainState, Progress]:
    """Train until the plan is done, from wherever ``state`` and ``progress`` stand.

    Args:
        state: donated to the first step.
        plan: how long.
        train_step: compiled ``(state, batch) -> (state, metrics)``; the metrics are scalars (but for
            ``block_grad_norm``), or have a leading axis of updates if a call makes several.
        batches: ``(start, stop) -> `` what the train step takes for those steps, on its devices, one for each of
            ``plan.calls(start)``.
        evaluate: validation of a state; None for none.
        checkpoints: where to save ``last`` and ``best``; None for nowhere.
        progress: as restored with the state.
        observers: told of every step and epoch.
        stop: looked at between calls.
        on_blocks: told of (step, norms (blocks,)) where a step measured the gradient norm at every block.

    Returns:
        The final state and progress.

    Raises:
        RunError: the loss or a gradient was not finite; the message has the step and what to look at. The update was
            rejected and the newest checkpoint is from before it.
        Interrupted: ``stop`` was requested; the state is saved.
    """
    session = _Session(plan, progress or Progress(), observers, on_blocks)
    start = int(state.step)
    if start >= plan.total_steps or session.progress.finished:
        return state, session.progress
    feed = batches(start, plan.total_steps)
    try:
        for (done, count), batch in zip(plan.calls(start), feed, strict=True):
            state, metrics = train_step(state, batch)
            session.sent(done, count, metrics)
            step = done + count
            ends_epoch = step % plan.steps_per_epoch == 0 or step == plan.total_steps
            if ends_epoch:
                session.drain()
                epoch = -(-step // plan.steps_per_epoch)
                last = step == plan.total_steps
                if last or epoch % plan.eval_every == 0:
                    result = evaluate(state) if evaluate is not None else None
                    improved = session.end_epoch(step, result)
                    if checkpoints is not None:
                        saved = session.progress.to_json()
                        if improved:
                            checkpoints.save("best", state, saved)
                        checkpoints.save("last", state, saved)
                else:
                    session.end_epoch(step, None)
                session.resume_clock()
                if session.progress.finished:
                    break
            if stop:
                session.drain()
                if checkpoints is not None:
                    checkpoints.save("last", state, session.progress.to_json())
                raise Interrupted(step, stop)
    finally:
        close = getattr(feed, "close", None)
        if close is not None:
            close()
    return state, session.progress


class _Session:
    """The book-keeping of one call of :func:`train`: metrics in flight, the clock, the progress."""

    def __init__(
        self,
        plan: Plan,
        progress: Progress,
        observers: Sequence[Observer],
        on_blocks: Callable[[int, np.ndarray], None] | None,
    ):
        self.plan, self.progress, self.observers, self.on_blocks = plan, progress, observers, on_blocks
        self._in_flight: deque[tuple[int, int, dict[str, jax.Array]]] = deque()
        self._clock: float | None = None  # None until the first call is done: compilation is not timed

    def sent(self, done: int, count: int, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of a call just dispatched, and read those that are due."""
        self._in_flight.append((done, count, metrics))
        if self._clock is None:
            self._read_oldest()
        while len(self._in_flight) > IN_FLIGHT:
            self._read_oldest()

    def drain(self) -> None:
        """Read everything that is still on its way."""
        while self._in_flight:
            self._read_oldest()

    def resume_clock(self) -> None:
        """Leave what happened since the last step (evaluation, saving) out of the training time."""
        self._clock = time.perf_counter()

    def end_epoch(self, step: int, result: Evaluation | None) -> bool:
        """Report the epoch; return whether ``result`` is the best so far."""
        row = {"step": step, "epoch": step / self.plan.steps_per_epoch, **self.progress.epoch_sums.means()}
        rate = self.progress.images_per_second
        if rate is not None:
            row["images_per_second"] = rate
        watch, improved = self.progress.watch, False
        finished = "steps" if step == self.plan.total_steps else None
        if result is not None:
            row |= {"val_loss": result.loss, "val_accuracy": result.accuracy}
            rule = self.plan.early_stopping or EarlyStopping(patience=self.plan.total_steps)
            watch = rule.update(watch, result.accuracy)
            improved = watch.wait == 0
            if self.plan.early_stopping is not None and watch.should_stop:
                finished = finished or "early stopping"
        self.progress = dataclasses.replace(self.progress, epoch_sums=EpochSums(), watch=watch, finished=finished)
        for observer in self.observers:
            observer.on_epoch(row)
        return improved

    def _read_oldest(self) -> None:
        done, count, arrays = self._in_flight.popleft()
        arrays = jax.device_get(arrays)
        calls = np.shape(arrays["count"])  # () where a call makes one update, else (K,)
        columns = {name: np.reshape(value, (-1, *np.shape(value)[len(calls) :])) for name, value in arrays.items()}
        now = time.perf_counter()
        timed, self._clock = self._clock, now
        for row in range(count):
            metrics = {name: float(column[row]) for name, column in columns.items() if column.ndim == 1}
            self._report(done + row + 1, metrics)
            if self.on_blocks is not None and BLOCKS in columns:
                self.on_blocks(done + row + 1, columns[BLOCKS][row])
            if timed is not None:
                examples = self.progress.timed_examples + metrics["count"]
                self.progress = dataclasses.replace(self.progress, timed_examples=examples)
        if timed is not None:
            self.progress = dataclasses.replace(self.progress, seconds=self.progress.seconds + now - timed)

    def _report(self, step: int, metrics: dict[str, float]) -> None:
        if metrics["rejected"]:
            raise RunError(_diverged(step, metrics))
        row = {
            "step": step,
            "epoch": step / self.plan.steps_per_epoch,
            "loss": metrics["loss"],
            "accuracy": metrics["correct"] / metrics["count"],
            "grad_norm": metrics["grad_norm"],
        }
        if metrics.get("skipped"):
            self.progress = dataclasses.replace(self.progress, skipped=self.progress.skipped + 1)
        else:
            self.progress = dataclasses.replace(self.progress, epoch_sums=self.progress.epoch_sums.add(metrics))
        if "loss_scale" in metrics:
            row |= {"loss_scale": metrics["loss_scale"], "skipped": self.progress.skipped}
        for observer in self.observers:
            observer.on_step(row)


def _diverged(step: int, metrics: dict[str, float]) -> str:
    scaled = "loss_scale" in metrics
    return (
        f"training diverged at step {step}: loss {metrics['loss']:.4g}, gradient norm {metrics['grad_norm']:.4g}"
        + (f", with the loss scale down at {metrics['loss_scale']:g}. " if scaled else ". ")
        + "The update was rejected and the last good checkpoint stays. Look at: the learning rate (lower it or add "
        "--optim.schedule.warmup '5 epochs'), clipping (--optim.clip-norm 1), the normalization of the images "
        "(--data.mean, --data.std); with batches of your own, whether every label is one of the network's classes "
        "0..K-1" + (", the range of float16, which ends at 65,504 (--model.dtype bfloat16)" if scaled else "")
    )
