"""One process at a time in a directory: a lock that is released by any death, even where files cannot be locked.

``flock`` is used where it works: the system releases it when the process ends, however it ends, and on NFS it covers
all machines. Where files cannot be locked (some network file systems, Windows), a *lease* replaces it: a file that is
created atomically, names its holder, and is refreshed every few seconds. It counts as abandoned if its process is gone
(on this machine), or if it was not refreshed for a while (on another one). The latter is observed, not read off a
clock: a clock that jumps, here or on the server, makes no lease old or young.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from resnet_jax.errors import RunError

_log = logging.getLogger(__name__)

#: Seconds between two refreshes of a lease.
BEAT_SECONDS = 10.0
#: Number of intervals after which a lease that nobody refreshes counts as abandoned.
BEATS = 4
#: Seconds after which a new lease is checked again, in case two processes took over the same old one.
SETTLE_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Holder:
    """The holder of a lock.

    Attributes:
        host: name of the machine.
        machine: identifies its current boot and, in a container, its PID namespace.
        process: ID of the process.
        started: start time of the process in system units, since another process may get its ID.
        since: when it took the lock, UTC, ISO 8601; for people.
        token: made for this lock only.
    """

    host: str
    machine: str
    process: int
    started: str
    since: str
    token: str

    @classmethod
    def here(cls) -> Holder:
        """Return this process."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()), now, secrets.token_hex(8))

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Return the holder that a file names; None for a file that names none."""
        try:
            with path.open("rb") as file:
                raw = json.loads(file.read(4096).split(b"\n")[0])
            found = cls(**{field.name: raw[field.name] for field in dataclasses.fields(cls)})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        texts = (found.host, found.machine, found.started, found.since, found.token)
        return found if type(found.process) is int and all(isinstance(text, str) for text in texts) else None

    def line(self) -> bytes:
        """Return the text that :meth:`read` parses."""
        return (json.dumps(dataclasses.asdict(self)) + "\n").encode()

    def is_gone(self) -> bool | None:
        """Return whether the process has ended; None if that cannot be determined from here.

        It cannot for another machine or container, nor for this one before it was restarted: names are not unique.
        """
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        return _started(self.process) != self.started

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


class Held:
    """A held lock.

    Attributes:
        lost: who has it now if someone took it over, for example after a long suspension; otherwise None.
    """

    def __init__(self) -> None:
        self.lost: str | None = None

    def require(self, what: str) -> None:
        """Refuse to continue if someone else has the lock now.

        Raises:
            RunError: if so, with the holder.
        """
        if self.lost is not None:
            raise RunError(f"{what} was taken over by {self.lost}: this process did not refresh its lease for too long")


@contextlib.contextmanager
def locked(folder: Path, what: str, warn: Callable[[str], None] = _log.warning) -> Iterator[Held]:
    """Keep other processes out of a directory within the block.

    Args:
        folder: the directory; its files ``.lock`` and, if that cannot be locked, ``.lease`` are used.
        what: what is done there, for messages: ``training``.
        warn: called if it is necessary to wait and see whether a lease is still refreshed.

    Raises:
        RunError: if another process is there, with details; or the directory cannot be written.
    """
    path, me = folder / ".lock", Holder.here()
    try:
        file = _opened(path)
    except OSError as error:
        raise RunError(f"cannot write the run directory {folder}: {error.strerror or error}") from error
    try:
        taken = _flock(file)
        if taken:
            raise _in_use(path, folder, what)
        if taken is False:
            with contextlib.suppress(OSError):  # only for people; the lock holds without
                os.ftruncate(file, 0)
                os.pwrite(file, me.line(), 0)
            try:
                yield Held()
            finally:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, 0)
            return
    finally:
        os.close(file)
    with _lease(folder, what, me, warn) as held:
        yield held


def _in_use(path: Path, folder: Path, what: str) -> RunError:
    who = Holder.read(path) or "it does not say who it is"
    return RunError(f"another process is {what} in {folder} ({who}); wait for it or stop it first")


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)


def _flock(file: int) -> bool | None:
    """Lock an open file; return whether another process has it, or None if files cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN) else None
    return False


@contextlib.contextmanager
def _lease(folder: Path, what: str, me: Holder, warn: Callable[[str], None]) -> Iterator[Held]:
    path = folder / ".lease"
    try:
        while not _take(path, me):
            _clear(path, folder, what, warn)
    except OSError as error:
        raise RunError(f"cannot write the run directory {folder}: {error.strerror or error}") from error
    held, done = Held(), threading.Event()
    thread = threading.Thread(target=_beat, args=(path, me, held, done), name="resnet_jax lease", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        done.set()
        thread.join(BEAT_SECONDS)
        if _token(path) == me.token:
            with contextlib.suppress(OSError):
                path.unlink()


def _take(path: Path, me: Holder) -> bool:
    """Create the lease atomically; return whether it is ours."""
    mine = path.with_name(f"{path.name}-{me.token}")
    mine.write_bytes(me.line())
    try:
        try:
            os.link(mine, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here
            try:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            with os.fdopen(file, "wb") as made:
                made.write(me.line())
    finally:
        mine.unlink(missing_ok=True)
    time.sleep(SETTLE_SECONDS)
    return _token(path) == me.token


def _clear(path: Path, folder: Path, what: str, warn: Callable[[str], None]) -> None:
    """Remove an abandoned lease.

    Raises:
        RunError: if it is not abandoned.
    """
    before = _state(path)
    if before is None:  # given back meanwhile
        return
    holder = Holder.read(path)
    gone = None if holder is None else holder.is_gone()
    if gone is None:
        seconds = BEATS * BEAT_SECONDS
        who = holder or "a process that does not say who it is"
        warn(f"{folder} was last held by {who}; watching for up to {seconds:g} s whether it still is")
        gone = _unchanged(path, before, seconds)
    if not gone:
        raise _in_use(path, folder, what)
    aside = path.with_name(f"{path.name}-old-{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):  # another one clears it too
        path.rename(aside)
        if (holder and holder.token) != _token(aside):  # and that one has made its own since
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _unchanged(path: Path, before: tuple[Any, ...], seconds: float) -> bool:
    """Return whether nobody refreshes a lease for this many seconds, by a monotonic clock."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        time.sleep(min(0.25, seconds / 20))
        if _state(path) != before:
            return False
    return True


def _state(path: Path) -> tuple[Any, ...] | None:
    """Return what changes when a lease is refreshed; None if there is none."""
    try:
        with path.open("rb") as file:  # opened, so that NFS asks the server
            found = os.fstat(file.fileno())
            return file.read(4096), found.st_mtime_ns, found.st_ino
    except OSError:
        return None


def _token(path: Path) -> str | None:
    holder = Holder.read(path)
    return None if holder is None else holder.token


def _beat(path: Path, me: Holder, held: Held, done: threading.Event) -> None:
    """Refresh a lease until it is released, or until someone else has it."""
    count = 0
    while not done.wait(BEAT_SECONDS):
        holder = Holder.read(path)
        if holder is not None and holder.token != me.token:
            held.lost = str(holder)
            return
        count += 1
        with contextlib.suppress(OSError):  # the next beat tries again
            file = os.open(path, os.O_WRONLY)
            try:
                os.pwrite(file, f"{count:>20}\n".encode(), len(me.line()))
            finally:
                os.close(file)


def _machine() -> str:
    """Return what identifies this machine's current boot and PID namespace."""
    boot = space = "unknown"
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError, AttributeError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{boot}/{space}"


def _started(process: int) -> str:
    """Return when a process started; empty if there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError, UnicodeDecodeError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:  # no /proc: macOS; Windows would end the process with this
        if os.name == "posix":
            os.kill(process, 0)
        return "unknown"
    except ProcessLookupError:
        return ""
    except OSError:
        return "unknown"
