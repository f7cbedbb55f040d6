"""Checks of who else could have written code before it is run: owner and permissions of files and folders.

A compiled library and a compiled program are code. They are used from a cache only if the file, its folder and all
parent folders belong to this user or to root and nobody else can write to them. Above the folder a sticky directory,
such as ``/tmp``, is acceptable, because nobody can rename another user's files there. Windows has no such permissions:
nothing is checked there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40


def can_check() -> bool:
    """Return whether this system has owners and permissions to check."""
    return hasattr(os, "getuid")


def distrust(folder: Path) -> str | None:
    """Return why others could have written the contents of a folder, or None if only this user and root could.

    Args:
        folder: it may not exist; missing parts are not checked.

    Returns:
        A clause that names the folder at fault, and how to fix it.
    """
    if not can_check():
        return None
    todo, links = list(reversed(Path(os.path.abspath(folder)).parts)), 0
    here = Path(todo.pop())
    while True:  # every folder on the way, those that links lead through too: who can write one can lead elsewhere
        last = not todo
        try:
            found = os.lstat(here)
        except OSError:
            return None  # not there yet: made by this process
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if found.st_uid not in (os.getuid(), 0):
                return f"{here} is a link of another user (number {found.st_uid})"
            if links > _MOST_LINKS:
                return f"{here} is a link that leads nowhere"
            target = Path(os.path.normpath(here.parent / os.readlink(here)))
            todo, here = [*todo, *reversed(target.parts[1:])], Path(target.anchor)
            continue
        reason = _distrust_of(found, sticky_will_do=not last)
        if reason is not None:
            return f"{here} {reason}"
        if last:
            return None
        here = here / todo.pop()


def distrust_file(descriptor: int) -> str | None:
    """Return why an open file could be another user's, as :func:`distrust` does for a folder."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    return _distrust_of(found, sticky_will_do=False) if can_check() else None


def _distrust_of(found: os.stat_result, *, sticky_will_do: bool) -> str | None:
    if found.st_uid not in (os.getuid(), 0):
        return f"belongs to another user (number {found.st_uid})"
    writers = found.st_mode & _OTHERS
    if not writers or (sticky_will_do and found.st_mode & stat.S_ISVTX):
        return None
    if writers == stat.S_IWGRP and _is_private_group(found.st_gid):
        return None
    return "can be written by others (chmod go-w fixes it)"


def _is_private_group(number: int) -> bool:
    """Return whether a group is the private group that many systems create for each user, with no other members."""
    with contextlib.suppress(ImportError, KeyError, OSError):
        import grp
        import pwd

        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(number)
        return user.pw_gid == number and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}
    return False


def make_private(folder: Path) -> None:
    """Create a folder, and missing parents, so that only this user can write to it.

    Raises:
        OSError: if it cannot be created.
    """
    missing = []
    for one in (folder, *folder.parents):
        if one.exists():
            break
        missing.append(one)
    for one in reversed(missing):
        one.mkdir(mode=0o755, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(20, "it is a file and no directory", str(folder))


def open_own(path: Path) -> int:
    """Open a file for reading, without following a link and without waiting for the other end of a pipe.

    Returns:
        The descriptor, whose owner and permissions :func:`distrust_file` checks.

    Raises:
        OSError: if it does not exist, is a link, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | getattr(os, "O_BINARY", 0))
