"""Compiled programs on disk: JAX's cache with a checksum, a check of the owner, and a bounded size added.

A compiled program is machine code. JAX's own cache trusts whatever is in its directory, never rewrites a damaged entry
(so that every start compiles again), and grows without bound. Here an entry is JAX's own bytes followed by a marker and
their SHA-256, written atomically. An entry that is damaged, could have been written by another user or cannot be used
any more is a cache miss, and is replaced by the newly compiled program. The least recently used entries are removed if
there are too many.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resnet_jax.errors import UsageError
from resnet_jax.runtime.trusted import distrust_file, open_own

#: Maximum size in MiB of the programs for one kind of processor.
LIMIT = "RESNET_JAX_CACHE_MIB"
DEFAULT_LIMIT = 4096
_MARK = b"\nresnet_jax sha256 "
_SUFFIX = "-cache"  # as JAX names its entries
_TEMPORARY = ".writing-"
_STALE_SECONDS = 3600.0

_log = logging.getLogger(__name__)
_told: list[Callable[[str], None]] = []


@contextlib.contextmanager
def told_of_compilations(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block, call a function with the name of every program that is not found, before it is compiled.

    Args:
        tell: called with a name such as ``train_step``, in the thread that compiles.
    """
    _told.append(tell)
    try:
        yield
    finally:
        _told.remove(tell)


def size_limit() -> int:
    """Return the maximum size of the cached programs in bytes.

    Raises:
        UsageError: if the variable is not a number of MiB.
    """
    given = os.environ.get(LIMIT, "")
    if not given:
        return DEFAULT_LIMIT << 20
    if not given.isascii() or not given.isdecimal() or not 0 < int(given) < 1 << 30:
        raise UsageError(f"{LIMIT} is {given!r}; need a number of MiB above 0, such as {DEFAULT_LIMIT}")
    return int(given) << 20


class Programs:
    """The entries of a directory, by JAX's keys.

    Args:
        folder: a folder that only this user can write to.
        most: maximum total size of the entries in bytes.
    """

    def __init__(self, folder: Path, most: int):
        self.folder, self.most = folder, most
        self._can_write = True

    def get(self, key: str) -> bytes | None:
        """Return an entry as it was stored; None if there is none that can be trusted."""
        path = self._path(key)
        try:
            descriptor = open_own(path)
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            reason = distrust_file(descriptor)
            try:
                value = _opened(file.read()) if reason is None else None
            except OSError as error:
                value, reason = None, f"cannot be read ({error.strerror})"
            if value is not None:
                with contextlib.suppress(OSError):  # when it was last used; when it was written stays
                    os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
                return value
        _log.info("%s %s: it is recompiled", path, reason or "is damaged")
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def put(self, key: str, value: bytes) -> None:
        """Store an entry, replacing an existing one; if nothing can be written, that is reported once."""
        if not self._can_write:
            return
        sealed = value + _MARK + hashlib.sha256(value).digest()
        if len(sealed) > self.most:
            return
        try:
            self._make_room(len(sealed))
            handle, partial = tempfile.mkstemp(prefix=_TEMPORARY, dir=self.folder)
            try:
                with open(handle, "wb") as file:
                    file.write(sealed)
                os.replace(partial, self._path(key))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(partial)
                raise
        except OSError as error:
            self._can_write = False
            _log.warning("compiled programs are no longer kept: %s: %s", self.folder, error.strerror or error)

    def _path(self, key: str) -> Path:
        if os.sep in key or "/" in key or key.startswith("."):
            raise ValueError(f"no key of a program: {key!r}")
        return self.folder / f"{key}{_SUFFIX}"

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used entries, and what a killed process left half-written."""
        found, total = [], 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    about = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(_SUFFIX):
                        found.append((about.st_atime_ns, about.st_size, entry.path))
                        total += about.st_size
                    elif entry.name.startswith(_TEMPORARY) and time.time() - about.st_mtime > _STALE_SECONDS:
                        os.unlink(entry.path)
        for _, size, path in sorted(found):
            if total + needed <= self.most:
                return
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size


def _opened(sealed: bytes) -> bytes | None:
    """Return the sealed bytes; None if they are incomplete."""
    value, mark, digest = sealed[: -len(_MARK) - 32], sealed[-len(_MARK) - 32 : -32], sealed[-32:]
    return value if mark == _MARK and hashlib.sha256(value).digest() == digest else None


def let_jax_use(programs: Programs) -> bool:
    """Use the entries instead of JAX's own cache; call it before anything is compiled.

    Returns:
        Whether this version of JAX supports it; otherwise its own cache is used.
    """
    try:
        from jax._src import compilation_cache
        from jax._src.compilation_cache_interface import CacheInterface

        class Cache(CacheInterface):
            _path: Any = programs.folder

            def get(self, key: str) -> Any:
                found = programs.get(key)
                if found is None:
                    for tell in tuple(_told):
                        tell(key.rpartition("-")[0].removeprefix("jit_"))
                return found

            def put(self, key: str, value: bytes) -> None:
                programs.put(key, value)

        theirs: Any = compilation_cache.get_file_cache
        theirs = getattr(theirs, "theirs", theirs)

        def get_file_cache(path: str) -> Any:
            return (Cache(), path) if str(path) == str(programs.folder) else theirs(path)

        get_file_cache.theirs = theirs  # pyright: ignore[reportFunctionMemberAccess]
        compilation_cache.get_file_cache = get_file_cache
    except (ImportError, AttributeError, TypeError) as error:
        _log.warning("this version of JAX keeps compiled programs by itself, without checksums (%s)", error)
        return False
    return True
