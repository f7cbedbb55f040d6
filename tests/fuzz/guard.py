"""What a reader does beside reading: code run, processes started, files written elsewhere, memory and time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

#: Nothing that reads a file has a reason for these.
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn",
    "pickle.find_class", "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "webbrowser.open",
    "shutil.rmtree", "ctypes.dlopen", "sys.addaudithook", "code.__new__", "os.kill", "os.killpg",
)  # fmt: skip
#: What changes a file or folder; its paths are the first arguments.
_CHANGES = {
    "os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.chmod": 1,
    "os.chown": 1, "os.truncate": 1, "os.utime": 1, "shutil.copyfile": 2, "shutil.move": 2,
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_INSTALLED = tuple({*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, str(Path(__file__).parents[2])})


@dataclass
class Watched:
    """What was seen of one input.

    Attributes:
        acts: what no reader may do.
        seconds: it took.
        bytes: by which the memory in use rose at its highest.
    """

    acts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    bytes: int = 0


class TookTooLong(BaseException):
    """The reader did not end in the time it has."""


_now: Watched | None = None
_allowed: tuple[str, ...] = ()
_installed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    watched = _now
    if watched is None:
        return
    if event in _FORBIDDEN:
        watched.acts.append(f"{event} {arguments!r:.200}")
    elif event == "exec":
        code = arguments[0]
        if not isinstance(code, CodeType) or not (code.co_filename.startswith(_INSTALLED) or _is_ours(code)):
            caller = sys._getframe(1).f_code.co_filename
            watched.acts.append(f"exec of {getattr(code, 'co_filename', code)!r:.200} by {caller}")
    elif event == "open":
        path, mode, flags = arguments
        writes = isinstance(flags, int) and flags & _WRITING
        if (writes or (isinstance(mode, str) and set(mode) & set("wax+"))) and not _is_allowed(path):
            watched.acts.append(f"open for writing {path!r:.200}")
    elif event in _CHANGES:
        for path in arguments[: _CHANGES[event]]:
            if not _is_allowed(path):
                watched.acts.append(f"{event} {path!r:.200}")


def _is_ours(code: CodeType) -> bool:
    """Return whether code without a file was made by a library of what we wrote ourselves, such as an annotation."""
    frame: FrameType | None = sys._getframe(2)
    if not code.co_filename.startswith(("<frozen", "<string>", "<@beartype")) or frame is None:
        return False
    makers = ("dataclasses.py", "collections/__init__.py", "functools.py", "typing.py")
    caller = frame.f_code.co_filename
    return caller.endswith(makers) or any(f"/{name}/" in caller for name in ("beartype", "jaxtyping"))  # of tests


def _is_allowed(path: Any) -> bool:
    if isinstance(path, int):  # a descriptor: it was opened by a name, or is a pipe
        return True
    name = os.path.abspath(os.fsdecode(path))
    if sys.pycache_prefix and name.startswith(sys.pycache_prefix):  # a module of the library that is imported late
        return True
    return name.startswith(_allowed) or name == os.devnull or name.startswith("/proc/self/")


@contextlib.contextmanager
def watching(*folders: Path, limit: float = 20.0) -> Iterator[Watched]:
    """Watch what is done; an audit hook stays for good, but looks at nothing when this is over.

    Args:
        folders: that may be written.
        limit: seconds, after which :class:`TookTooLong` is raised.
    """
    global _now, _allowed, _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    _allowed = tuple(str(folder) for folder in folders)

    def stop(*_: Any) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    _forget_peak()
    start, began = _memory("VmRSS"), time.perf_counter()
    watched = Watched()
    try:
        _now = watched
        yield watched
    finally:
        _now = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        watched.seconds = time.perf_counter() - began
        watched.bytes = max(0, _memory("VmHWM") - start)


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0
