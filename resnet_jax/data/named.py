"""Image files as a user names them: files, folders, patterns, and a list that is read line by line."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator

from resnet_jax.data.formats import HEAD_BYTES, SUFFIXES, identify
from resnet_jax.data.listing import LeftOut
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_files import open_file

LIST = "-"
"""Stands for a list of files, one per line."""


class NamedImages:
    """The image files that some names stand for, found on iteration: only one folder at a time is in memory.

    A folder stands for the images in and below it, sorted; hidden names and files that are not images are skipped. A
    name that is not a file and contains ``*``, ``?`` or ``[`` is a pattern (``**`` for any depth), whose matches are
    sorted. ``-`` is every line of a list. Any other name is treated as a file, whether it exists or not: the reader
    reports it.

    Args:
        names: names as typed.
        lines: lines of the list that ``-`` stands for; bytes, unlimited in number.

    Attributes:
        left_out: the files in folders that are not images, so far.
        problems: name and reason for names that stood for nothing: a folder without images or that cannot be read, a
            pattern without matches; so far.
    """

    def __init__(self, names: Iterable[str | os.PathLike[str]], lines: Iterable[bytes] = ()):
        self._names, self._lines = tuple(os.fspath(name) for name in names), lines
        self.left_out = LeftOut()
        self.problems: list[tuple[str, str]] = []

    def __iter__(self) -> Iterator[str]:
        """Yield the paths, in the order of the names."""
        for name in self._names:
            if name == LIST:
                for line in self._lines:
                    path = os.fsdecode(line.rstrip(b"\r\n"))
                    if path:
                        yield path
            else:
                yield from self._of(os.fspath(user_path(name)))

    def _of(self, name: str) -> Iterator[str]:
        if os.path.isdir(name):
            yield from self._some(name, self._below(name, (os.stat(name),)), "no image in this folder or below it")
        elif glob.has_magic(name) and not os.path.lexists(name):
            matches = sorted(path for path in glob.iglob(name, recursive=True) if not os.path.isdir(path))
            yield from self._some(name, matches, "no file matches this pattern")
        else:
            yield name

    def _some(self, name: str, paths: Iterable[str], otherwise: str) -> Iterator[str]:
        problems, some = len(self.problems), False
        for path in paths:
            some = True
            yield path
        if not some and len(self.problems) == problems:  # nothing, and nobody has said why
            self.problems.append((name, otherwise))

    def _below(self, folder: str, above: tuple[os.stat_result, ...]) -> Iterator[str]:
        try:
            with os.scandir(folder) as found:
                entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            self.problems.append((folder, f"cannot read this folder ({error.strerror or error})"))
            return
        for entry in entries:
            if entry.is_dir():
                here = os.stat(entry.path)
                if not any(os.path.samestat(here, one) for one in above):  # a link back to a folder above it
                    yield from self._below(entry.path, (*above, here))
            elif self._is_image(entry):
                yield entry.path

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        regular = entry.is_file()
        if os.path.splitext(entry.name)[1].lower() in SUFFIXES and (regular or not os.path.exists(entry.path)):
            return True  # a link that leads nowhere too: whoever reads it says so
        found = None
        if regular:
            try:
                with open_file(entry.path) as file:
                    found = identify(file.read(HEAD_BYTES))
            except OSError:
                return True  # whoever reads it says why it cannot be
        if found is not None and found.readable:
            return True
        self.left_out.add(entry.name, found)
        return False
