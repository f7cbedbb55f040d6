"""Experiment trackers: observers that are named in ``train.observers``, ours and anybody's.

>>> from resnet_jax.training.observers import Observer
>>> @register_observer("losses")
... class Losses(Observer):
...     def on_epoch(self, row):
...         print(row["loss"])
>>> make_observers(["losses"])[0].on_epoch({"loss": 0.5})
0.5
"""

from __future__ import annotations

import contextlib
import importlib
import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from resnet_jax.errors import UsageError
from resnet_jax.report.own_thread import OwnThread
from resnet_jax.runtime.distribution import install
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.registry import Registry
from resnet_jax.training.cadence import Ticker
from resnet_jax.training.observers import Observer, Row, RunFacts

O = TypeVar("O", bound=Callable[[], Any])  # noqa: E741

OBSERVERS: Registry[Callable[[], Any]] = Registry("observer")


def register_observer(name: str) -> Callable[[O], O]:
    """Return a decorator that registers an observer's class (or what makes one) under a name for ``train.observers``.

    Raises:
        UsageError: the name is taken.
    """
    return OBSERVERS.register(name)  # pyright: ignore[reportReturnType]


def make_observers(names: Iterable[str]) -> list[Any]:
    """Return a new observer of each name.

    Raises:
        UsageError: there is no such observer, or the package that it needs is not installed.
    """
    return [OBSERVERS[name]() for name in names]


class Scalars(Observer):
    """Base of observers that take scalars by tag and step: of logged steps, of every epoch, and of validations.

    A number that is not finite is left out.
    """

    _ticker: Ticker

    def on_start(self, facts: RunFacts) -> None:
        """Open it; subclasses call this."""
        self._ticker = Ticker(facts.log_every)

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Write scalars by tag; subclasses do."""
        raise NotImplementedError

    def on_step(self, row: Row) -> None:
        """Write what a step measured, if it is due."""
        if self._ticker.is_due(int(row["step"])):
            self._write("step", row)

    def on_epoch(self, row: Row) -> None:
        """Write the means of an epoch and its validation."""
        self._write("epoch", row)

    def on_validation(self, row: Row) -> None:
        """Write a validation, under the tags of those at the end of an epoch."""
        self._write("epoch", row)

    def _write(self, group: str, row: Row) -> None:
        numbers = {f"{group}/{name}": value for name, value in row.items() if name not in ("step", "epoch", "member")}
        self.write({tag: value for tag, value in numbers.items() if math.isfinite(value)}, int(row["step"]))


@register_observer("tensorboard")
def _tensorboard() -> Observer:
    from resnet_jax.report.tensorboard import TensorBoard

    return TensorBoard()


class _Tracked(Scalars):
    """A run of a tracker whose ``init`` gives an object with ``log`` and ``finish``.

    It is called in a thread of its own: a tracker that hangs, on a network that has gone, does not stop the training.
    """

    package: str

    #: Seconds that a tracker has to start, and to finish what it was told.
    start_seconds = 120.0
    finish_seconds = 120.0

    def __init__(self) -> None:
        try:
            self._tracker: Any = importlib.import_module(self.package)
        except ImportError as error:
            raise UsageError(
                f"train.observers {self.package} needs a package that is not installed: {install(self.package)}"
            ) from error
        self._run: Any = None
        self._thread: OwnThread | None = None

    def options(self, facts: RunFacts) -> dict[str, Any]:
        """Return what ``init`` is given."""
        raise NotImplementedError

    def on_start(self, facts: RunFacts) -> None:
        """Start or resume its run.

        Raises:
            TimeoutError: that took too long.
        """
        super().on_start(facts)
        options = self.options(facts)

        def start() -> None:
            self._run = self._tracker.init(**options)

        self._thread = OwnThread(self.package)
        self._thread.wait(start, self.start_seconds, "start")

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Log them."""
        self.call(lambda: self._run.log(dict(scalars), step=step))

    def call(self, call: Callable[[], Any]) -> None:
        """Have something done with its run."""
        if self._thread is not None:
            self._thread.send(call)

    def close(self) -> None:
        """Finish the tracker's run.

        Raises:
            TimeoutError: that took too long.
        """
        if self._thread is not None and self._run is not None:
            self.call(lambda: self._run.finish())
            self._thread.close(self.finish_seconds)


@register_observer("wandb")
class WeightsAndBiases(_Tracked):
    """Observer for Weights & Biases. A resumed run continues there under its own id, kept in ``wandb-id.txt``.

    Project, entity and mode are set by its own environment variables (WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE).
    """

    package = "wandb"

    def options(self, facts: RunFacts) -> dict[str, Any]:
        """Return what ``init`` is given."""
        return {
            "name": facts.name,
            "id": _kept_id(facts.run_dir / "wandb-id.txt"),
            "resume": "allow",
            "dir": str(facts.run_dir),
            "config": dict(facts.config),
        }

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Set the run's summary."""
        self.call(lambda: self._run.summary.update(dict(summary)))


@register_observer("trackio")
class Trackio(_Tracked):
    """Observer for trackio, in the project ``resnet-jax``; a resumed run continues under its name."""

    package = "trackio"

    def options(self, facts: RunFacts) -> dict[str, Any]:
        """Return what ``init`` is given."""
        return {"project": "resnet-jax", "name": facts.name, "config": dict(facts.config), "resume": "allow"}

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Log the numbers of the summary."""
        numbers = {f"summary/{name}": value for name, value in summary.items() if isinstance(value, (int, float))}
        self.write(numbers, int(summary["steps"]))


def _kept_id(path: Path) -> str:
    """Return the id in a file, made at the first time or where the file holds none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if re.fullmatch(r"[0-9a-f]{16}", kept := path.read_text(encoding="utf-8").strip()):
            return kept
    write_whole(path, secrets.token_hex(8))
    return path.read_text(encoding="utf-8")
