"""A worker process of the data pipeline: makes batches by step into shared memory. Started by :mod:`.workers`.

    python -m resnet_jax.data.worker COMMANDS REPLIES HEAD PAYLOAD MEMORY

All are file descriptors. It ends when nobody is left to send commands, and never writes to standard output.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from resnet_jax.data.shared import Slots, load
from resnet_jax.errors import ResNetJaxError
from resnet_jax.runtime.malloc import keep_freed_memory


class _Maker:
    """Makes batches into their slots and reports them."""

    def __init__(self, batches: Any, slots: Slots, replies: Connection) -> None:
        self._batches, self._slots, self._replies = batches, slots, replies
        self._lock = threading.Lock()
        self._told = 0 if batches.unreadable is None else len(batches.unreadable)

    def make(self, step: int, slot: int) -> None:
        """Make the batch of a step, or report why it failed."""
        try:
            batch = self._batches.batch(step)
            for name, view in self._slots.views(slot).items():
                view[...] = batch[name]
            answer: tuple[str, Any] = ("made", None)
        except Exception as error:
            if not isinstance(error, ResNetJaxError):  # whose message says all
                error.add_note(f"in a worker process:\n{traceback.format_exc()}")
            answer = ("failed", _sendable(error))
        with self._lock:
            lost = [] if self._batches.unreadable is None else self._batches.unreadable.entries
            new = lost if len(lost) > self._told else []
            self._told = len(lost)
            self._replies.send((*answer, step, slot, new))


def _sendable(error: Exception) -> Exception:
    """Return an error that survives pickling, itself if it does."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}\n{''.join(getattr(error, '__notes__', []))}")
    return error


def main() -> None:
    """Open the source, then make the requested batches until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the first process, which closes this one
    command_fd, reply_fd, head_fd, payload_fd, memory_fd = map(int, sys.argv[1:])
    os.dup2(2, 1)  # what somebody's transform prints
    commands, replies = Connection(command_fd, writable=False), Connection(reply_fd, readable=False)
    keep_freed_memory()
    try:
        head = load(head_fd)
        sys.path[:] = head["path"]
        from resnet_jax.runtime.imports import import_modules

        import_modules(head["imports"])
        batches = load(payload_fd)
        maker = _Maker(batches, Slots(batches.arrays, head["slots"], memory_fd), replies)
    except Exception as error:
        replies.send(("closed", f"{type(error).__name__}: {error}", -1, -1, []))
        return
    with ThreadPoolExecutor(head["threads"], thread_name_prefix="batches") as pool:
        while True:
            try:
                step, slot = commands.recv()
            except (EOFError, OSError):
                os._exit(0)  # what is in the making is wanted by nobody
            pool.submit(maker.make, step, slot)


if __name__ == "__main__":
    main()
