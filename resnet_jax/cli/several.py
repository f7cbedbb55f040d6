"""The command line in several processes: which verbs use all of them, and how only one prints."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO, cast

from resnet_jax.cli.imports import take_imports
from resnet_jax.cli.options import ANYWHERE, HELP
from resnet_jax.cli.streams import Steady
from resnet_jax.errors import UsageError
from resnet_jax.runtime.distributed import SWITCH, Launch, find_launch, initialize_processes, started
from resnet_jax.runtime.launcher import end_with_launcher
from resnet_jax.runtime.processes import is_agreed

#: Verbs that all processes work on together; the others run in one process.
SHARED = ("train", "eval", "ablate")


@contextlib.contextmanager
def several_processes(argv: Sequence[str]) -> Iterator[bool]:
    """Start the processes of a command if a launcher started several; yields whether this process has work to do.

    For verbs that are not shared, only the first process works, as it would alone. The others print nothing on standard
    output, and neither do the C++ libraries of any process: Gloo would print a line per group of devices.

    Args:
        argv: the arguments of the command.

    Raises:
        UsageError: if the launcher provides too little information.
        RunError: if the processes could not connect to each other.
    """
    launch = find_launch()
    if launch is None:
        yield True
        return
    end_with_launcher()
    verb = _verb(argv)
    asks = any(word in HELP for word in argv)
    if verb not in SHARED or asks:
        if launch.index and not asks:
            print(
                f"{verb or 'this'} runs in one process: number {launch.index} of {launch.count} has nothing to do",
                file=sys.stderr,
            )
        os.environ[SWITCH] = "off"  # also of what it starts
        yield launch.index == 0
        return
    initialize_processes(launch)
    _print_once(launch)
    from resnet_jax.runtime.together import ending_together

    with ending_together():
        yield True


def said_elsewhere(error: BaseException) -> bool:
    """Return whether another process, the first, already reports this error, which all of them raise."""
    launch = started()
    return launch is not None and launch.index > 0 and is_agreed(error)


def _verb(argv: Sequence[str]) -> str:
    with contextlib.suppress(UsageError):  # said later
        words = [word for word in take_imports(argv)[0] if word not in ANYWHERE]
        return words[0] if words else ""
    return ""


def _print_once(launch: Launch) -> None:
    """Reserve standard output for what the first process prints from Python."""
    stream = sys.stdout
    if stream is None:
        return
    stream.flush()
    with contextlib.suppress(OSError, ValueError):
        own = os.dup(stream.fileno())
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if launch.index:
            os.close(own)
            return
        lines = 1 if os.isatty(own) else -1
        opened = os.fdopen(own, "w", lines, encoding=stream.encoding, errors=stream.errors)
        sys.stdout = cast(TextIO, Steady(opened, "standard output"))
