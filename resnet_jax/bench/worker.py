"""A process that computes on request; see :mod:`resnet_jax.bench.serve` for what it runs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

SERVE = Path(__file__).with_name("serve.py")

#: Seconds within which a side must be compiled and warm.
START_SECONDS = 1800.0
#: A round lasts seconds; a side that has not answered after this many is stuck.
ANSWER_SECONDS = 600.0


class WorkerError(Exception):
    """A side could not be prepared, or ended; the message says why."""


class Worker:
    """One side. Use it as a context manager: its process ends with the block.

    Args:
        interpreter: the Python interpreter to run it.
        file: a file that defines ``prepare(spec)``.
        spec: JSON.
        environment: added to this process's own.
    """

    def __init__(
        self,
        interpreter: str | Path,
        file: Path,
        spec: dict[str, Any],
        environment: dict[str, str] | None = None,
    ):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        try:
            self._process = subprocess.Popen(
                [str(interpreter), str(SERVE), str(file), json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            self._log.close()
            raise WorkerError(f"cannot run {interpreter}: {error.strerror or error}") from error
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def start(self, timeout: float = START_SECONDS) -> dict[str, Any]:
        """Wait until it is compiled and warm; return its facts.

        Raises:
            WorkerError: if it cannot be, or takes longer than ``timeout`` seconds.
        """
        reply = self._answer(timeout, "to compile and warm up")
        if "failed" in reply:
            raise WorkerError(reply["failed"])
        return reply["ready"]

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Make it compute, and return the answer.

        Raises:
            WorkerError: if it ended, or does not answer.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": name, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerError(self._epitaph()) from None
        return self._answer(ANSWER_SECONDS, f"for {name}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # a question it never read
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _answer(self, timeout: float, purpose: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise WorkerError(f"took more than {timeout:g} s {purpose}") from None
        if line is None:
            raise WorkerError(self._epitaph())
        return json.loads(line)

    def _epitaph(self) -> str:
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended with status {status}: {lines[-1] if lines else 'it said nothing'}"
