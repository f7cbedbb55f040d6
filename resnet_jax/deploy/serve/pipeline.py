"""From bytes to rows: decoder threads, one thread that computes batches, and a bound on what waits between them.

An event loop submits images and awaits futures. Decoders put what they have read into one list. The computing thread
takes from it the batch size with the highest throughput, and notifies the loop once per batch.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from resnet_jax.deploy.serve.engine import Engine, Ready, row_of
from resnet_jax.deploy.serve.problems import Problem, busy

Reader = Callable[[], Ready]
"""Reads one image; raises :class:`Problem`."""


@dataclasses.dataclass(frozen=True)
class Computed:
    """One computed image.

    Attributes:
        row: its row of :meth:`Engine.compute`.
        ready: the prepared image.
        batch: number of images in its batch.
    """

    row: Any
    ready: Ready
    batch: int


@dataclasses.dataclass(eq=False)
class _Job:
    future: asyncio.Future[Computed]
    read: Reader
    began: float
    ready: Ready | None = None


class Pipeline:
    """Decodes and computes images that an event loop submits.

    Args:
        engine: computes the outputs.
        most: maximum number of images between submission and answer.
        wait: maximum seconds that an image waits for others that are being decoded.
        decoders: number of threads.
        on_batch: called in the computing thread after each batch with its number of images, the size it was padded to
            and its seconds.
        on_outputs: called in that thread after the waiting requests have been notified, with the outputs (N, ...) and
            the images (N, H, W, C).

    Attributes:
        coming: number of images whose requests are being received; the loop counts them, so that a batch waits for
            them.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        most: int,
        wait: float,
        decoders: int,
        on_batch: Callable[[int, int, float], None] = lambda *_: None,
        on_outputs: Callable[[Any, np.ndarray], None] | None = None,
    ):
        self._engine, self._most, self._wait = engine, most, wait
        self._on_batch, self._on_outputs = on_batch, on_outputs
        self.coming = 0
        self._seconds: dict[int, float] = {}
        self._inside = 0
        self._to_read: deque[_Job] = deque()
        self._ready: deque[_Job] = deque()
        self._reading = 0
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._some_to_read, self._some_ready = threading.Condition(self._lock), threading.Condition(self._lock)
        self._closed = False
        self._threads = [
            threading.Thread(target=self._decode, name=f"decode {n}", daemon=True) for n in range(decoders)
        ]
        self._threads.append(threading.Thread(target=self._compute, name="compute", daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def inside(self) -> int:
        """Number of images that are neither answered nor abandoned."""
        return self._inside

    def warm(self, repeats: int = 3) -> dict[int, float]:
        """Compile and time every size; return the seconds of each. Blocks; call it before submitting anything."""
        for size in self._engine.sizes:
            images = np.zeros((size, *self._engine.shape), self._engine.dtype)
            times = []
            for _ in range(repeats + 1):
                began = time.perf_counter()
                self._engine.compute(images)
                times.append(time.perf_counter() - began)
            self._seconds[size] = min(times[1:])
        return dict(self._seconds)

    def submit(self, reader: Reader, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Computed]:
        """Have an image read and computed; call it in the loop.

        Raises:
            Problem: 503, the queue is full.
        """
        if self._closed:
            raise busy("the server is stopping")
        if self._inside >= self._most:
            raise busy(f"{self._inside:,} images are already waiting: try again")
        job = _Job(loop.create_future(), reader, time.monotonic())
        self._inside += 1
        job.future.add_done_callback(lambda _: self._left(job))
        with self._lock:
            self._to_read.append(job)
            self._some_to_read.notify()
        return job.future

    def call(self, call: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
        """Run something else in the computing thread, between two batches; call it in the loop."""
        future: asyncio.Future[Any] = loop.create_future()

        def made() -> None:
            found: Any = None
            problem: Exception | None = None
            if not future.cancelled():
                try:
                    found = call()
                except Exception as error:
                    problem = error
            _tell(loop, _settle, future, found, problem)

        with self._lock:
            self._calls.append(made)
            self._some_ready.notify()
        return future

    def close(self, seconds: float) -> None:
        """Stop the threads after finishing what was submitted; waits up to the given seconds."""
        with self._lock:
            self._closed = True
            self._some_to_read.notify_all()
            self._some_ready.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _left(self, job: _Job) -> None:
        self._inside -= 1
        job.read = _read_already  # releases the bytes of the body

    def _decode(self) -> None:
        while True:
            with self._lock:
                while not self._to_read:
                    if self._closed:
                        return
                    self._some_to_read.wait()
                job = self._to_read.popleft()
                self._reading += 1
            problem: Exception | None = None
            if not job.future.cancelled():
                read, job.read = job.read, _read_already
                try:
                    job.ready = read()
                except Exception as error:
                    problem = error
                del read
            with self._lock:
                self._reading -= 1
                if job.ready is not None:
                    self._ready.append(job)
                self._some_ready.notify()
            if problem is not None:
                _tell(job.future.get_loop(), _settle, job.future, None, problem)

    def _compute(self) -> None:
        while True:
            with self._lock:
                jobs, calls = self._next()
            if not jobs and not calls:
                return
            for call in calls:
                call()
            jobs = [job for job in jobs if not job.future.cancelled()]
            if jobs:
                self._batch(jobs)

    def _next(self) -> tuple[list[_Job], list[Callable[[], None]]]:
        """Wait for a batch or for something else to compute; both are empty at the end."""
        largest = self._engine.sizes[-1]
        while True:
            calls = list(self._calls)
            self._calls.clear()
            if calls:
                return [], calls
            while self._ready and self._ready[0].future.cancelled():
                self._ready.popleft()
            if not self._ready:
                if self._closed and not self._to_read and not self._reading:
                    return [], []
                self._some_ready.wait(1.0 if self._closed else None)
                continue
            count = len(self._ready)
            others = len(self._to_read) + self._reading + self.coming
            left = self._wait - (time.monotonic() - self._ready[0].began)
            if count < largest and others and left > 0 and not self._closed:
                self._some_ready.wait(left)
                continue
            return [self._ready.popleft() for _ in range(min(count, self.best_size(count)))], []

    def best_size(self, count: int) -> int:
        """Return the batch size with the highest measured throughput if ``count`` images wait."""

        def rate(size: int) -> tuple[float, int]:
            return min(count, size) / self._seconds.get(size, float(size)), size

        return max(self._engine.sizes, key=rate)

    def _batch(self, jobs: Sequence[_Job]) -> None:
        """Compute images and notify their requests."""
        images = np.stack([job.ready.pixels for job in jobs if job.ready is not None])
        began, problem, found = time.perf_counter(), None, None
        try:
            found = self._engine.compute(images)
        except Exception as error:
            problem = error
        seconds = time.perf_counter() - began
        size = next(size for size in self._engine.sizes if size >= len(jobs))
        rows = [None if problem else Computed(row_of(found, n), job.ready, len(jobs)) for n, job in enumerate(jobs)]  # pyright: ignore[reportArgumentType]
        if problem is None:
            self._on_batch(len(jobs), size, seconds)
        _tell(jobs[0].future.get_loop(), _settle_all, [job.future for job in jobs], rows, problem)
        if problem is None and self._on_outputs is not None:
            try:
                self._on_outputs(found, images)
            except Exception as error:  # an observer must not prevent answers
                self._on_outputs = None
                print(f"error: watching the images ended: {type(error).__name__}: {error}", file=sys.stderr)


def _read_already() -> Ready:
    raise RuntimeError("this image was read already")


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> None:
    """Call something in the loop; does nothing if the loop is closed."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        return


def _settle(future: asyncio.Future[Any], found: Any, problem: Exception | None) -> None:
    if future.done():
        return
    if problem is None:
        future.set_result(found)
    else:
        future.set_exception(problem if isinstance(problem, Problem) else _failed(problem))


def _settle_all(futures: Sequence[asyncio.Future[Any]], rows: Sequence[Any], problem: Exception | None) -> None:
    for future, row in zip(futures, rows, strict=True):
        _settle(future, row, problem)


def _failed(error: Exception) -> Problem:
    problem = Problem(500, "failed", f"the server failed to compute this: {type(error).__name__}")
    problem.__cause__ = error
    return problem
