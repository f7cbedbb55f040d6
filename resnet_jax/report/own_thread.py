"""Calls into a library that may hang, made in a thread of its own, so that training never waits for them for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

#: Calls that may wait; further ones are left out.
MOST_CALLS = 10_000


class OwnThread:
    """Makes calls one after the other in a thread of its own, which does not keep the process alive.

    An error that one of them raises is raised by the next call here, and no further one is made.

    Args:
        name: of the library, for messages.

    >>> thread, found = OwnThread("doctest"), []
    >>> thread.send(lambda: found.append(1))
    >>> thread.wait(lambda: found.append(2), 10.0, "go on")
    >>> found
    [1, 2]
    >>> thread.close(10.0)
    """

    def __init__(self, name: str) -> None:
        self._name, self._error, self._left_out, self._closed = name, None, 0, False
        self._calls: queue.Queue[Callable[[], Any] | None] = queue.Queue(MOST_CALLS)
        self._thread = threading.Thread(target=self._work, name=f"resnet_jax {name}", daemon=True)
        self._thread.start()

    def send(self, call: Callable[[], Any]) -> None:
        """Have a call made soon; it is left out where too many wait already.

        Raises:
            Exception: what an earlier call raised.
        """
        self._raise()
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._left_out += 1

    def wait(self, call: Callable[[], Any], seconds: float, what: str) -> None:
        """Have a call made, and wait until it is done.

        Args:
            call: after those that wait.
            seconds: how long at most.
            what: it does, for the message: ``start``.

        Raises:
            TimeoutError: it took longer; it is not waited for any more.
            Exception: what this call raised, or an earlier one.
        """
        done = threading.Event()

        def told() -> None:
            try:
                call()
            finally:
                done.set()

        self.send(told)
        if not done.wait(seconds) and self._error is None:
            raise TimeoutError(f"{self._name} did not {what} within {seconds:g} seconds")
        self._raise()

    def close(self, seconds: float) -> None:
        """End the thread when the calls that wait are made.

        Raises:
            TimeoutError: they took longer; the thread is left to itself.
            Exception: what one of them raised.
        """
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            try:
                self._calls.put(None, timeout=seconds)
            except queue.Full:
                raise TimeoutError(f"{self._name} did not finish within {seconds:g} seconds") from None
            self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"{self._name} did not finish within {seconds:g} seconds")
        self._raise()
        if self._left_out:
            raise TimeoutError(f"{self._name} was too slow for {self._left_out:,} calls, which were left out")

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # raised where training calls next
                self._error = error
                return
