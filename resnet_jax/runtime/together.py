"""Processes end together: what ends one of several ends all of them, with the same message and in bounded time.

A process that fails alone, for example because a file is missing on its host, would leave the others waiting in a
collective forever. It therefore writes its reason into the store of ``jax.distributed``, which a thread of every other
process checks each second. A process that is killed writes nothing: the others find its connection closed, or JAX ends
them after the heartbeat timeout in :mod:`resnet_jax.runtime.distributed`.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from resnet_jax.errors import ResNetJaxError, RunError
from resnet_jax.runtime import processes

#: Seconds between two checks for a failure of others.
LOOK = 1.0
#: Seconds that a process has to end on its own once another has failed.
GRACE = 3.0
#: Seconds that a failed process waits until the others know.
KNOWN = 5.0
#: Seconds that the others wait for the first if all fail alike.
LAST = 30.0

_LOST = re.compile(
    r"gloo|connection (closed|reset)|socket closed|coordination service|heartbeat|NCCL|another task|UNAVAILABLE"
    r"|barrier",
    re.IGNORECASE,
)
#: Written by a process that was told of a failure.
_TOLD = "told"
#: Where processes that fail alike record that they leave.
_LEFT = "resnet_jax/left"
_blocks = itertools.count()
_current: _Together | None = None
_failed_alone, _lost_others = False, False


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Tell the other processes about a failure of this one in the block, and end if another fails.

    An error that all processes raise alike, and a stop that all agreed on, need not be reported. With a single process,
    and within another such block, this does nothing.

    Raises:
        RunError: in place of an error that says that the connection to another process was lost.
    """
    global _current
    if _current is not None or processes.count() == 1:
        yield
        return
    together = _current = _Together(next(_blocks))
    try:
        yield
    except BaseException as error:
        if processes.is_agreed(error):
            raise
        told = together.failed(error)
        if told is None:
            raise
        raise told from error
    finally:
        _current = None
        together.close()


def has_failed() -> bool:
    """Return whether this process has failed alone, and has told the others."""
    return _failed_alone


def leave(status: int, *, wait: float | None = None) -> None:
    """End this process with a status other than 0, so that it does not wait for others that have failed too.

    The first process leaves last, because JAX ends the others with pages of text when it is gone.

    Args:
        status: status of the process.
        wait: maximum seconds that the first process waits for the others (default: :data:`KNOWN`, and one if some were
            lost).
    """
    from jax._src import distributed

    client: Any = distributed.global_state.client
    alike = not _failed_alone and wait is None
    wait = (LOOK if _lost_others else KNOWN) if wait is None else wait
    with contextlib.suppress(Exception):
        if alike and not processes.is_main():  # the first may be drawing pictures of what there is
            until = time.monotonic() + LAST
            while time.monotonic() < until and not client.key_value_dir_get(f"{_LEFT}/first/"):
                time.sleep(0.05)
        client.key_value_set(f"{_LEFT}/{'first' if processes.is_main() else 'others'}/{processes.index()}", "left")
        until = time.monotonic() + (wait if processes.is_main() else 0.0)
        while time.monotonic() < until and len(client.key_value_dir_get(f"{_LEFT}/")) < processes.count():
            time.sleep(0.05)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    logging.shutdown()
    os._exit(status)


def _leave_at_exit() -> None:
    if _failed_alone:
        leave(1)


class _Together:
    """What a process knows about failures of others, and reports about its own.

    Args:
        number: number of the block, the same in all processes.
    """

    def __init__(self, number: int) -> None:
        from jax._src import distributed

        self._client: Any = distributed.global_state.client
        self._key, self._index, self._count = f"resnet_jax/failed/{number}", processes.index(), processes.count()
        self._over, self._failing = threading.Event(), threading.Event()
        self._known: dict[str, Any] | None = None
        self._thread = threading.Thread(target=self._look, daemon=True, name="ending together")
        if self._client is not None:
            self._thread.start()

    def close(self) -> None:
        """Stop checking."""
        self._over.set()

    def failed(self, error: BaseException) -> Exception | None:
        """Tell the others why this process fails; return what it says about a lost connection, otherwise None."""
        global _failed_alone, _lost_others
        _failed_alone = True
        self._failing.set()
        atexit.register(_leave_at_exit)  # of a program of somebody's own; before JAX waits for the others, who are gone
        if self._client is None:
            return None
        lost = _is_lost(error)
        if lost:
            _lost_others = True
            known = self._known or self._wait_for_reason()
            if known is not None:
                return _as_error(known)
            return RunError(
                f"the connection to another process was lost ({_first_line(error)}): it has ended or was killed; what "
                "it said last is in its own output. Earlier checkpoints are kept; restart all of them with the same "
                "command to resume"
            )
        message = _said(error)
        said = {"process": self._index, "message": message, "status": getattr(error, "exit_code", 1)}
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{self._key}/{self._index}", message)
            with contextlib.suppress(Exception):  # the first of several is the reason
                self._client.key_value_set(self._key, json.dumps(said))
            self._wait_until_known()
            if self._client.key_value_try_get(f"{self._key}/0") == message and self._all_failed():
                _failed_alone = False
                processes.agreed(error)
        return None

    def _wait_until_known(self) -> None:
        """Wait until the others have read it, or have failed too: the store ends with the first process."""
        until = time.monotonic() + KNOWN
        while time.monotonic() < until and len(self._client.key_value_dir_get(f"{self._key}/")) < self._count:
            time.sleep(0.05)

    def _all_failed(self) -> bool:
        """Return whether every process has failed on its own."""
        known = self._client.key_value_dir_get(f"{self._key}/")
        return len(known) >= self._count and all(value != _TOLD for _, value in known)

    def _wait_for_reason(self) -> dict[str, Any] | None:
        """Wait a moment for the reason of a process whose connection is lost; killed ones give none."""
        until = time.monotonic() + 2 * LOOK
        while time.monotonic() < until:
            if (found := self._reason()) is not None:
                return found
            time.sleep(0.1)
        return None

    def _reason(self) -> dict[str, Any] | None:
        with contextlib.suppress(Exception):
            found = json.loads(self._client.key_value_try_get(self._key))
            if found["process"] != self._index:
                with contextlib.suppress(Exception):
                    self._client.key_value_set(f"{self._key}/{self._index}", _TOLD)
                return found
        return None

    def _look(self) -> None:
        """Check for a failure of others; end this process if it does not end on its own."""
        while not self._over.wait(LOOK):
            self._known = self._reason()
            if self._known is not None:
                break
        else:
            return
        until = time.monotonic() + GRACE
        while time.monotonic() < until:
            if self._over.wait(0.1) or self._failing.is_set():
                return
        print(f"error: {_as_error(self._known)}", file=sys.stderr, flush=True)
        leave(int(self._known["status"]), wait=0.0)


def _is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process cannot be reached."""
    import jax

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (jax.errors.JaxRuntimeError, RuntimeError)) and _LOST.search(str(seen)):
            return True
        seen = seen.__cause__
    return False


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _said(error: BaseException) -> str:
    if isinstance(error, ResNetJaxError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "it was stopped at once"
    return f"{type(error).__name__}: {error}"


def _as_error(known: dict[str, Any]) -> RunError:
    error = RunError(f"process {known['process']} has failed, and so all end: {known['message']}")
    error.exit_code = int(known["status"])
    return error
