"""A cached compiled library: used if it is unmodified, and made by one process while others wait.

A library is code, so a cached one is loaded only if nobody else can have written it (:mod:`resnet_jax.runtime.trusted`)
and its bytes are those that the compiler wrote: their SHA-256 is the end of its name, ``native-IDENTITY-DIGEST.so``. It
is opened once, without following a link, and it is loaded through the same descriptor that is checked. A truncated file
would otherwise end the process with SIGBUS as soon as the linker accesses missing pages.

Processes that need the same library take turns with a lock that is released when its process ends. A process that
waited finds the library, or the reason why the other one failed; one that waited longer than a compiler may take
compiles for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from resnet_jax.runtime.cxx.compiler import CompilerError
from resnet_jax.runtime.trusted import distrust_file, open_own

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_POLL_SECONDS = 0.1
#: Prefix with which a process tells those that wait why it has no library for them.
_MOST_REASON = 4096
#: Where a library is made, until it is complete.
WORK = "building-"
_ABANDONED_SECONDS = 86400.0


@dataclasses.dataclass(frozen=True)
class Library:
    """A verified library.

    Attributes:
        path: its path.
        descriptor: the file descriptor it was verified through, and is loaded through.
    """

    path: Path
    descriptor: int


def find(folder: Path, identity: str) -> Library | None:
    """Return the trustworthy library with an identity in a folder; None if there is none.

    A damaged library is removed, and one that another user may have written is skipped; both are reported.
    """
    for path in sorted(folder.glob(f"{identity}-*.so")):
        try:
            descriptor = open_own(path)
        except OSError as error:
            _log.warning("%s cannot be opened (%s) and is recompiled", path, error.strerror)
            continue
        reason = distrust_file(descriptor)
        if reason is None and _digest(descriptor) == path.stem.removeprefix(f"{identity}-"):
            return Library(path, descriptor)
        os.close(descriptor)
        _log.warning("%s %s: it is recompiled instead of loaded", path, reason or "is not what was written there")
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def keep(built: Path, folder: Path, identity: str) -> Library:
    """Move a compiler's output to its place, atomically.

    Raises:
        OSError: if it does not exist, or cannot be moved.
    """
    built.chmod(0o755)  # whatever the umask: one that others could write would not be loaded
    descriptor = open_own(built)
    try:
        path = folder / f"{identity}-{_digest(descriptor)}.so"
        os.replace(built, path)
    except OSError:
        os.close(descriptor)
        raise
    return Library(path, descriptor)


def load(library: Library) -> ctypes.CDLL:
    """Load a verified library.

    Raises:
        OSError: if it does not load: because of another C library, or a file system that forbids execution.
    """
    through = Path(f"/proc/self/fd/{library.descriptor}")
    if not through.exists():  # no Linux: by its name, in a folder that only this user can write
        os.close(library.descriptor)
        return ctypes.CDLL(str(library.path))
    try:
        return ctypes.CDLL(str(through))  # the descriptor stays open: the linker takes a name it knows for the same
    except OSError as error:
        os.close(library.descriptor)
        raise OSError(str(error).replace(str(through), str(library.path))) from error


def _digest(descriptor: int) -> str:
    digest = hashlib.sha256()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while chunk := os.read(descriptor, _CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def in_turn(folder: Path, identity: str, make: Callable[[], Library], limit: float) -> Library:
    """Make a library while other processes that need the same one wait; or wait, and use theirs.

    Args:
        folder: its folder.
        identity: identity of the library.
        make: compiles it.
        limit: seconds to wait for another process, after which it is made here too.

    Raises:
        CompilerError: if it failed, here or in the other process.
        OSError: if the library cannot be written.
    """
    remove_abandoned(folder)
    note = folder / f".{identity}.failed"
    before = _read_note(note)
    with _turn(folder / f".{identity}.lock", limit) as waited:
        found = find(folder, identity)
        if found is not None:
            return found
        if waited and (reason := _read_note(note)) != before and reason[1]:
            raise CompilerError(reason[1])
        try:
            library = make()
        except CompilerError as error:
            with contextlib.suppress(OSError):
                note.write_text(str(error)[:_MOST_REASON], encoding="utf-8", errors="replace")
            raise
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
        return library


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left behind while compiling, after a day or more."""
    for path in folder.glob(f"{WORK}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _read_note(note: Path) -> tuple[int, str]:
    """Return when another process failed and why; zero and empty if none did."""
    try:
        descriptor = open_own(note)
    except OSError:
        return 0, ""
    try:
        if distrust_file(descriptor) is not None:
            return 0, ""
        text = os.read(descriptor, _MOST_REASON).decode("utf-8", errors="replace")
        return os.fstat(descriptor).st_mtime_ns, text
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _turn(path: Path, limit: float) -> Iterator[bool]:
    """Hold a lock, after waiting for it for a limited time; yield whether another process had it meanwhile."""
    try:
        import fcntl
    except ImportError:  # Windows: everybody for himself, and the last one's library stays
        yield False
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        waited, until = False, time.monotonic() + limit
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    _log.info("another process compiles the operations; waiting for it, at most %g s", limit)
                waited = True
                if time.monotonic() > until:
                    break
                time.sleep(_POLL_SECONDS)
            except OSError:  # a file system without locks
                break
        yield waited
    finally:
        os.close(descriptor)
