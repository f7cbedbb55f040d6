"""The job of one :func:`~resnet_jax.runs.fit.fit`: what its stages share, and what is printed before it begins."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console as RichConsole

from resnet_jax.models.towers import TwoTowers
from resnet_jax.report.text import say
from resnet_jax.runs.build import RunComponents
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.corrupt import CorruptList
from resnet_jax.runs.data import RunData
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.finetune import Source, describe
from resnet_jax.runs.length import Settled
from resnet_jax.runs.outcome import Pictures
from resnet_jax.runs.teacher import describe_teacher
from resnet_jax.runtime.cxx.library import is_compiling
from resnet_jax.runtime.events import NO_EVENTS, EventLog
from resnet_jax.runtime.lock import Held
from resnet_jax.runtime.programs import told_of_compilations
from resnet_jax.tasks.task import Task
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.feeds import Feed
from resnet_jax.training.mapped import uncut, unmapped
from resnet_jax.training.observers import Observer, Row
from resnet_jax.training.stuck import Chance


class FirstStep(Observer):
    """Observer that measures the time to the first step."""

    def __init__(self, began: float):
        self._began = began
        self.seconds: float | None = None

    def on_step(self, row: Row) -> None:
        """Stop the watch, once."""
        if self.seconds is None:
            self.seconds = time.perf_counter() - self._began


class StillHeld(Observer):
    """Observer that ends the training if another process has taken over the run directory."""

    def __init__(self, held: Held | None, run: RunDirectory):
        self._held, self._run = held, run

    def on_step(self, row: Row) -> None:
        """Check the lock.

        Raises:
            RunError: if it was taken over.
        """
        if self._held is not None:
            self._held.require(str(self._run.path))


@dataclasses.dataclass(frozen=True)
class Job:
    """What the stages of :func:`fit` share."""

    config: RunConfig
    images: RunData
    parts: RunComponents
    run: RunDirectory
    checkpoints: Checkpoints
    console: RichConsole
    source: Source | None
    first_step: FirstStep
    feed: Feed
    corrupt: CorruptList
    events: EventLog = NO_EVENTS
    held: Held | None = None

    @property
    def chance_in_training(self) -> Chance:
        """The chance level in an epoch of training."""
        return Chance.of(
            self.images.splits.train.labels, self.parts.plan.steps_per_epoch * self.config.train.batch_size
        )

    @property
    def pictures(self) -> Pictures:
        """The object that draws its figures."""
        return Pictures(self.run, self.config, self.say)

    def say(self, text: str) -> None:
        """Print a line as it is."""
        say(self.console, text)


def sayer(console: RichConsole) -> Callable[[str], None]:
    """Return a function that prints a line as it is."""
    return functools.partial(say, console)


def _outputs(task: Task, names: Sequence[str]) -> str:
    """Describe the outputs: ``10 classes``, ``regression of 2: weight, width``."""
    if task.kind == "classification":
        return f"{len(names)} classes"
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{task.kind} of {listed or task.num_outputs}"


def _devices(job: Job) -> str:
    """Describe the devices, and why a step on several devices is not mapped over them, if it is not."""
    parts, config = job.parts, job.config
    forms = ", plain forms" if config.train.forms == "plain" else ""
    if parts.placement.size == 1 or parts.placement.fsdp > 1:
        return parts.placement.described + forms
    share = config.train.batch_size // parts.placement.size
    why = unmapped(parts.model, parts.placement, parts.task) or uncut(
        parts.model, config.train.batch_size, parts.placement.size * config.train.accumulate
    )
    how = f"each step mapped over them, {share} images each" if why is None else f"partitioned by the compiler: {why}"
    return f"{parts.placement.described}{forms}, {how}"


def announce(job: Job, settled: Settled, notes: Sequence[str] = ()) -> None:
    config, plan = job.config, job.parts.plan
    sizes = ", ".join(f"{count:,} {name}" for name, count in job.images.card.examples.items())
    shape = "x".join(str(side) for side in job.images.card.image_shape)
    per_call = job.feed.steps_per_call
    together = f", {per_call} in a call" if per_call > 1 else ""
    optimizer = f"{config.optim.name} {config.optim.learning_rate:g} {config.optim.schedule.kind}"
    network = config.model.name
    if isinstance(job.parts.model, TwoTowers) and (other := job.images.card.other) is not None:
        network += f" and {config.other.model.name}"
        shape += f" and {'x'.join(str(side) for side in other.shape)}"
    facts = {
        "network": f"{network}, {_outputs(job.parts.task, job.images.card.class_names)}",
        "images": f"{config.data.place}: {sizes} ({shape})",
        "fed": job.parts.fed,
        "training": f"{plan.total_steps:,} steps of {config.train.batch_size} images{together}, {optimizer}",
        "devices": _devices(job),
        "run": str(job.run.path),
    }
    start = () if job.source is None else describe(config, job.source, job.parts, job.images.card)
    taught = [] if job.parts.teacher is None else [("teacher", describe_teacher(config, job.parts.teacher))]
    lines = (*(("start", line) for line in start), *taught, *(("adapted", line) for line in settled.adapted))
    for name, fact in (*facts.items(), *lines):
        job.say(f"{name:>9}  {fact}")
    for note in notes:
        job.say(f"{'note':>9}  {note}")
    for line in settled.change.lines(config) if settled.change is not None else ():
        job.say(line)


@contextlib.contextmanager
def compilations_said(say: Callable[[str], None]) -> Iterator[None]:
    """Announce once, in advance, that something not cached will be compiled: the C++ for the processor and the step.

    Args:
        say: prints a line.
    """
    said = is_compiling()
    if said:
        say(f"{'once':>9}  the C++ for this processor and the step are compiled and cached: 10 to 30 s on two cores")

    def missed(program: str) -> None:
        nonlocal said
        if program.endswith("_step") and not said:
            said = True
            say(f"{'once':>9}  the step is compiled and cached for the next start")

    with told_of_compilations(missed):
        yield
