"""A compiler run that ends: in bounded time, with all that it has started, and with one line if it fails."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

#: Seconds that the compiler may take.
LIMIT = "RESNET_JAX_COMPILER_SECONDS"
#: It takes about 20 on one core of 2020, and several times that on a busy machine.
DEFAULT_LIMIT = 300.0
#: To say what version it is.
VERSION_LIMIT = 30.0


class CompilerError(Exception):
    """The compiler failed, or did not end; the text says which and how."""


def compiler_limit() -> float:
    """Return the seconds that a compiler may take.

    Raises:
        CompilerError: the variable is no number of seconds.
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
    """Run a compiler to its end, and return what it prints.

    Args:
        command: the compiler and its arguments.
        limit: seconds after which it is killed, with every process that it has started.
        environment: of the compiler; None for this process's own.

    Raises:
        CompilerError: it failed, or did not end within the limit.
        OSError: it cannot be started.
    """
    group = hasattr(os, "killpg")
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        start_new_session=group,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise CompilerError(
            f"{command[0]} did not end within {limit:g} s and was stopped; {LIMIT} gives it longer"
        ) from None
    finally:
        if process.returncode is None:  # also where this process is interrupted
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL) if group else process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if process.returncode:
        said = err.decode(errors="replace").strip().splitlines() or [f"exit {process.returncode}"]
        raise CompilerError(f"{command[0]} failed: {said[-1]}")
    return out.decode(errors="replace")
