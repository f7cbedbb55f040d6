"""Feeds: the calls that the loop makes. Single steps on sharded batches, probed steps, or K steps on resident data.

A feed serves one run or a population, whose batches have a leading axis of members; the loop does not see the
difference.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.instrument.probing import is_due
from resnet_jax.runtime.ahead import in_threads
from resnet_jax.training.dispatch import chunks, put_resident
from resnet_jax.training.placement import Placement
from resnet_jax.training.plan import spans
from resnet_jax.training.state import TrainState

#: Number of batches prefetched to the devices of an accelerator.
AHEAD = 2

Metrics: TypeAlias = dict[str, jax.Array]
Step: TypeAlias = Callable[..., tuple[TrainState, Metrics]]
#: ``(start, stop) -> `` the host batches of those steps.
HostBatches: TypeAlias = Callable[[int, int], Iterator[Mapping[str, np.ndarray]]]
#: A step -> the next step that no call may cross.
Boundary: TypeAlias = Callable[[int], int]


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a compiled program.

    Attributes:
        first: number of updates done before it.
        count: number of updates it makes.
        run: ``state -> (state, metrics)``; it donates the state. Metrics have a leading axis of updates if a call can
            make several, followed by an axis of members in a population.
    """

    first: int
    count: int
    run: Callable[[TrainState], tuple[TrainState, Metrics]]


class Feed(Protocol):
    """The calls of compiled programs that make up a run."""

    @property
    def steps_per_call(self) -> int:
        """The maximum number of updates per call."""
        ...

    def calls(self, start: int, stop: int, boundary: Boundary | None = None) -> Generator[Call]:
        """Yield the calls that make the updates ``start`` to ``stop - 1``; none crosses a boundary."""
        ...


@dataclasses.dataclass(frozen=True)
class SingleSteps:
    """One update per call.

    Attributes:
        step: compiled, ``(state, batch) -> (state, metrics)``.
        batches: the host batches.
        placement: shards them over the devices; None: the step takes them as they are.
        axis: the axis of examples in a batch; 1 in a population.
    """

    step: Step
    batches: HostBatches
    placement: Placement | None = None
    axis: int = 0
    steps_per_call: int = dataclasses.field(default=1, init=False)

    def calls(self, start: int, stop: int, boundary: Boundary | None = None) -> Generator[Call]:
        """Yield one call per update."""
        for first, batch in _sharded(self, start, stop):
            yield Call(first, 1, lambda state, batch=batch: self.step(state, batch))


@dataclasses.dataclass(frozen=True)
class ProbedSteps:
    """One update per call; some updates also measure the gradient at every block.

    This uses two programs, because measurements should be fetched only when due. All other numbers are the same. Both
    are compiled at the first call, which is not timed.

    Attributes:
        step: compiled lazily by ``jax.jit``.
        probed: the same step with a probe.
        every: interval between probed updates; the first update of the run is probed.
        batches: the host batches.
        placement: shards them over the devices.
        axis: the axis of examples in a batch; 1 in a population.
    """

    step: Any
    probed: Any
    every: int
    batches: HostBatches
    placement: Placement
    axis: int = 0
    steps_per_call: int = dataclasses.field(default=1, init=False)

    def calls(self, start: int, stop: int, boundary: Boundary | None = None) -> Generator[Call]:
        """Yield one call per update."""
        programs: dict[bool, Step] = {}

        def run(state: TrainState, batch: Any, due: bool) -> tuple[TrainState, Metrics]:
            if not programs:
                both = {False: self.step, True: self.probed}
                programs.update({probed: jitted.lower(state, batch).compile() for probed, jitted in both.items()})
            return programs[due](state, batch)

        for first, batch in _sharded(self, start, stop):
            due = is_due(first, self.every)
            yield Call(first, 1, lambda state, batch=batch, due=due: run(state, batch, due))


@dataclasses.dataclass(frozen=True)
class ResidentSteps:
    """Several updates per call, from a training set that is copied to the devices once.

    Attributes:
        multi_step: from :func:`~resnet_jax.training.dispatch.compile_multi_step`.
        data: returns all examples, arrays (N, ...) by name.
        order: 0-based step -> positions of its examples and their epochs, (B,), or (members, B) in a population.
        placement: the devices.
        steps_per_call: the maximum number of updates per call.
        axis: the axis of examples in a batch; 1 in a population.
    """

    multi_step: Callable[..., tuple[TrainState, Metrics]]
    data: Callable[[], Mapping[str, np.ndarray]]
    order: Callable[[int], tuple[np.ndarray, np.ndarray]]
    placement: Placement
    steps_per_call: int
    axis: int = 0

    def calls(self, start: int, stop: int, boundary: Boundary | None = None) -> Generator[Call]:
        """Yield calls of this many updates, or fewer up to a boundary; the program is the same."""
        data = put_resident(self.data(), self.placement)
        cut = list(spans(start, stop, self.steps_per_call, boundary))
        parts = chunks(self.order, cut, self.steps_per_call, self.placement, axis=self.axis)
        for (first, count), chunk in zip(cut, parts, strict=True):
            yield Call(first, count, lambda state, chunk=chunk: self.multi_step(state, data, chunk))


@dataclasses.dataclass(frozen=True)
class Staged:
    """A sequence of feeds, each starting at a given update; no call spans two of them.

    Attributes:
        starts: the first update of each feed; the first is 0.
        feeds: feeds that cover all updates of the run; each is asked only for its own part.
    """

    starts: tuple[int, ...]
    feeds: tuple[Feed, ...]

    @property
    def steps_per_call(self) -> int:
        """The maximum number of updates per call."""
        return max(feed.steps_per_call for feed in self.feeds)

    def calls(self, start: int, stop: int, boundary: Boundary | None = None) -> Generator[Call]:
        """Yield the calls of every feed for its part of the updates."""
        for first, after, feed in zip(self.starts, (*self.starts[1:], stop), self.feeds, strict=True):
            low, high = max(start, first), min(stop, after)
            if low < high:
                yield from feed.calls(low, high, boundary)


def host_batch(feed: Feed, step: int) -> dict[str, np.ndarray]:
    """Return this process's part of the batch for 0-based update ``step``, as the feed provides it.

    Args:
        feed: the feed of a run, or of a population, whose batches have a leading axis of members.
        step: the update, 0-based.

    Raises:
        UsageError: for a feed of another kind, which only it can open.
    """
    match feed:
        case Staged():
            stage = max(number for number, start in enumerate(feed.starts) if start <= step)
            return host_batch(feed.feeds[stage], step)
        case ResidentSteps():
            index, epoch = feed.order(step)
            rows = {name: np.asarray(array)[index] for name, array in feed.data().items()}
            return {**rows, "mask": np.ones(index.shape, bool), "index": index.astype(np.int32),
                    "epoch": epoch.astype(np.int32)}  # fmt: skip
        case SingleSteps() | ProbedSteps():
            stream = feed.batches(step, step + 1)
            try:
                return dict(next(stream))
            finally:
                getattr(stream, "close", lambda: None)()
        case _:
            raise UsageError(f"the batches of {type(feed).__name__} cannot be looked at")


def _sharded(feed: SingleSteps | ProbedSteps, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield the number of each update and its batch, on the devices."""
    stream = feed.batches(start, stop)
    with contextlib.ExitStack() as stack:
        stack.callback(getattr(stream, "close", lambda: None))
        if feed.placement is None:
            yield from enumerate(stream, start)
            return
        put = sent_ahead(stream, feed.placement, feed.axis)
        stack.callback(put.close)  # before the stream, which its thread reads
        yield from enumerate(put, start)


def sent_ahead(
    stream: Iterator[Mapping[str, np.ndarray]], placement: Placement, axis: int = 0, *, ahead: int | None = None
) -> Generator[dict[str, jax.Array]]:
    """Yield batches on the devices, while a thread transfers the next ones.

    Every process transfers its own part without communication, so this works with any number of processes.

    Args:
        stream: the host batches.
        placement: the devices.
        axis: the axis of examples in a batch.
        ahead: number of batches to prefetch; None: :data:`AHEAD`, or 0 on CPUs, whose devices take host arrays
            directly.
    """
    if ahead is None:
        ahead = 0 if placement.platform == "cpu" else AHEAD
    if ahead == 0:
        for batch in stream:
            yield placement.shard(batch, axis)
        return

    def put(_: int) -> dict[str, jax.Array] | None:
        batch = next(stream, None)
        return None if batch is None else placement.shard(batch, axis)

    with contextlib.closing(in_threads(put, range(sys.maxsize), threads=1, ahead=ahead)) as batches:
        for batch in batches:
            if batch is None:
                return
            yield batch
