"""Worker processes for batches: each makes whole batches by step, which are returned through shared memory.

They are for sources and transforms that hold Python's GIL, so that threads would wait for each other. A worker is a new
interpreter that imports what this one has imported by ``--imports`` and opens the source from its pickled form; unlike
those of :mod:`multiprocessing`, it does not run the main program again, and does not load JAX.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from resnet_jax.data.executor import Batch, Batches, Steps
from resnet_jax.data.shared import Slots, dump
from resnet_jax.data.unreadable import LeftOut, Unreadable
from resnet_jax.errors import RunError, UsageError
from resnet_jax.runtime.imports import imported_modules

PATIENCE = 3.0
"""Seconds that a worker has to end on its own when it is no longer needed."""


@dataclass(eq=False)
class _Worker:
    """One process, and its pending work."""

    process: subprocess.Popen[bytes]
    commands: Connection
    replies: Connection
    busy: int = 0

    @classmethod
    def start(cls, descriptors: list[int]) -> _Worker:
        command_read, command_write = os.pipe()
        reply_read, reply_write = os.pipe()
        given = [command_read, reply_write, *descriptors]
        command = [sys.executable, "-m", "resnet_jax.data.worker", *map(str, given)]
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=given)
        finally:
            os.close(command_read)
            os.close(reply_write)
        return cls(process, Connection(command_write, readable=False), Connection(reply_read, writable=False))

    def send(self, step: int, slot: int) -> None:
        self.busy += 1
        with contextlib.suppress(OSError):  # it has ended: the end of its replies says so
            self.commands.send((step, slot))

    def close(self) -> None:
        """End the process."""
        self.commands.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.replies.close()


def in_processes(batches: Steps, steps: range, *, workers: int, threads: int, prefetch: int) -> Batches:
    """Yield the batches of steps in order, made by worker processes; see :func:`.executor.in_order`.

    Raises:
        UsageError: if the source or a transform cannot be sent to another process.
        DataError: as for ``batches.batch``, in place of the batch that failed.
        RunError: if a worker process ended.
    """
    if os.name != "posix":
        raise UsageError(f"data.workers {workers} needs a system that hands open files to processes; use data.threads")
    head = {"path": sys.path, "imports": imported_modules(), "threads": threads, "slots": workers * threads + prefetch}
    return _made(batches, steps, head, workers, threads)


def _dumped(batches: Steps, workers: int) -> int:
    try:
        return dump(batches)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"data.workers {workers}: the source or a transform cannot be sent to worker processes ({error}); define "
            "its class in a module and keep no open files or functions in it, or use data.threads"
        ) from error


def _made(
    batches: Steps, steps: range, head: dict[str, Any], workers: int, threads: int
) -> Generator[Batch, None, None]:
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, payload := _dumped(batches, workers))
        slots = Slots(batches.arrays, head["slots"])
        stack.callback(slots.close)
        stack.callback(os.close, head_file := dump(head))
        started: list[_Worker] = []
        for _ in range(min(workers, len(steps))):
            started.append(_Worker.start([head_file, payload, slots.descriptor]))
            stack.callback(started[-1].close)
        yield from _collected(batches, iter(steps), steps, slots, started, threads)


def _collected(
    batches: Steps, left: Iterator[int], steps: range, slots: Slots, started: list[_Worker], threads: int
) -> Generator[Batch, None, None]:
    free, ready = list(range(slots.count)), {}

    def assign() -> None:
        while free and (idle := min(started, key=lambda one: one.busy)).busy < threads:
            if (step := next(left, None)) is None:
                return
            idle.send(step, free.pop())

    for step in steps:
        assign()
        while step not in ready:
            for connection in wait([one.replies for one in started]):
                worker = next(one for one in started if one.replies is connection)
                kind, found, made, slot, lost = _reply(worker, len(started))
                worker.busy -= 1
                _count(batches.unreadable, lost)
                ready[made] = (kind, found, slot)
            assign()
        kind, found, slot = ready.pop(step)
        if kind == "failed":
            raise found
        batch = {name: view.copy() for name, view in slots.views(slot).items()}
        free.append(slot)
        yield batch


def _count(unreadable: Unreadable | None, lost: list[LeftOut]) -> None:
    if unreadable is not None:
        for entry in lost:
            unreadable.add(entry.index, entry.where, entry.reason)


def _reply(worker: _Worker, workers: int) -> tuple[str, Any, int, int, list[Any]]:
    try:
        reply = worker.replies.recv()
    except (EOFError, OSError):
        raise RunError(_ended(worker.process)) from None
    if reply[0] == "closed":
        raise UsageError(
            f"data.workers {workers}: a worker process cannot open the source ({reply[1]}); what the main program "
            "defines is not there: put it in a module, or a file given by --imports, or use data.threads"
        )
    return reply


def _ended(process: subprocess.Popen[bytes]) -> str:
    """Describe how a worker ended."""
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return f"the data worker process {process.pid} has closed its pipe"
    how = f"with status {status}"
    if status < 0:
        name = signal.Signals(-status).name
        how = f"by {name}"
        if name == "SIGKILL":
            how += (
                ", as the system ends processes when memory runs out (fewer data.workers, or data.threads, need less)"
            )
    return (
        f"the data worker process {process.pid} was ended {how}; nothing is lost: the run resumes from its checkpoint"
    )
