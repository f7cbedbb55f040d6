"""Compiler runs with a time limit, which end together with all their subprocesses, and with a one-line error."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

#: Time limit of the compiler in seconds.
LIMIT = "RESNET_JAX_COMPILER_SECONDS"
#: It takes about 20 on one core of 2020, and several times that on a busy machine.
DEFAULT_LIMIT = 300.0
#: Time limit for asking its version.
VERSION_LIMIT = 30.0
_POLL_SECONDS = 0.02
#: The running compilers, in any thread.
_running: set[subprocess.Popen[bytes]] = set()
_ending = threading.Event()


class CompilerError(Exception):
    """The compiler failed, or did not end; the message says which and how."""


def compiler_limit() -> float:
    """Return the time limit of a compiler in seconds.

    Raises:
        CompilerError: if the variable is not a number of seconds.
    """
    given = os.environ.get(LIMIT)
    if not given:
        return DEFAULT_LIMIT
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise CompilerError(f"{LIMIT} is {given!r}; need a number of seconds above 0")
    return seconds


def run_compiler(command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> str:
    """Run a compiler to completion, and return its output.

    Args:
        command: the compiler and its arguments.
        limit: seconds after which it is killed, with all its subprocesses.
        environment: environment of the compiler; None for this process's own.

    Raises:
        CompilerError: if it failed, or did not end within the limit.
        OSError: if it cannot be started.
    """
    process = _start(command, environment, subprocess.PIPE, subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise _too_long(command, limit) from None
    finally:
        _stop(process)
    _require_done(process, command, err)
    return out.decode(errors="replace")


def run_compilers(
    commands: Sequence[Sequence[str]], limit: float, environment: Mapping[str, str], folder: Path
) -> None:
    """Run several compilers to completion, as many at once as there are processors; if one fails, all are stopped.

    Args:
        commands: what to run, in the order in which they start.
        limit: seconds after which all are killed, with all their subprocesses.
        environment: environment of the compilers.
        folder: folder for their output.

    Raises:
        CompilerError: if one failed, or they did not end within the limit.
        OSError: if one cannot be started.
    """
    at_once = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    until, waiting = time.monotonic() + limit, list(commands)
    running: list[tuple[subprocess.Popen[bytes], Sequence[str], IO[bytes]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                said = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed where its compiler ends
                command = waiting.pop(0)
                running.append((_start(command, environment, subprocess.DEVNULL, said), command, said))
            for process, command, said in running.copy():
                if process.poll() is None:
                    continue
                said.seek(0)
                _require_done(process, command, said.read())
                running.remove((process, command, said))
                _stop(process)
                said.close()
            if time.monotonic() > until:
                raise _too_long(commands[0], limit)
            time.sleep(_POLL_SECONDS)
    finally:  # also where this process is interrupted
        for process, _, said in running:
            _stop(process)
            said.close()


def stop_compilers() -> None:
    """Kill all running compilers, because this process ends and threads that wait for one cannot."""
    _ending.set()
    for process in list(_running):
        _kill(process)


def _start(
    command: Sequence[str], environment: Mapping[str, str] | None, out: int, err: int | IO[bytes]
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment,
        start_new_session=hasattr(os, "killpg"),
    )  # fmt: skip
    _running.add(process)
    if _ending.is_set():
        _kill(process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a running compiler and its subprocesses."""
    if process.returncode is None:
        _kill(process)
        process.wait()
    _running.discard(process)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()


def _too_long(command: Sequence[str], limit: float) -> CompilerError:
    return CompilerError(f"{command[0]} did not end within {limit:g} s and was stopped; {LIMIT} gives it longer")


def _require_done(process: subprocess.Popen[bytes], command: Sequence[str], err: bytes) -> None:
    if process.returncode:
        said = err.decode(errors="replace").strip().splitlines() or [f"exit {process.returncode}"]
        raise CompilerError(f"{command[0]} failed: {said[-1]}")
