"""The image files below a folder, and a count of everything that is skipped."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resnet_jax.data.formats import HEAD_BYTES, SUFFIXES, Format, identify
from resnet_jax.data.index import Stamps
from resnet_jax.data.layout import NO_CLASSES, check_below_class, shortened
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import open_file


@dataclass
class LeftOut:
    """Files that are not images, counted by suffix.

    Attributes:
        counts: suffix (or its substitute) -> number of files.
        formats: suffix -> what the first such file is.
    """

    counts: Counter[str] = field(default_factory=Counter)
    formats: dict[str, Format | None] = field(default_factory=dict)

    def add(self, name: str, found: Format | None) -> None:
        """Count one file."""
        suffix = os.path.splitext(name)[1].lower() or "without a suffix"
        self.formats.setdefault(suffix, found)
        self.counts[suffix] += 1

    def update(self, other: LeftOut) -> None:
        """Add the counts of another folder."""
        self.counts.update(other.counts)
        self.formats = {**other.formats, **self.formats}

    def __str__(self) -> str:
        """Return ``60 .heic (a HEIC image: convert it to PNG or JPEG), 24 .txt``, the most frequent first."""
        return shortened(f"{count:,} {suffix}{self._explained(suffix)}" for suffix, count in self.counts.most_common())

    def _explained(self, suffix: str) -> str:
        found = self.formats.get(suffix)
        return "" if found is None or found.name.startswith("text") else f" ({found})"


@dataclass
class Listing:
    """The contents of one folder and its subfolders.

    Attributes:
        paths: the images, sorted.
        bytes: their total size.
        nested: how many of them are in subfolders.
        subfolders: those that contain any, relative, sorted.
        left_out: the other files.
        loops: links that lead back to a folder above them; not followed.
    """

    paths: list[str] = field(default_factory=list)
    bytes: int = 0
    nested: int = 0
    subfolders: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    loops: list[str] = field(default_factory=list)


class Lister:
    """Lists the folders of a data set, and records them for its index, and the links that point outside it.

    Args:
        root: the folder of the data set, which contains everything that is listed.
        stamps: records what is read.
        lists_empty: whether empty images are listed, to be found unreadable when read, instead of being rejected.

    Attributes:
        outside: links that point outside the folder, and their targets; they are followed.
    """

    def __init__(self, root: Path, stamps: Stamps, *, lists_empty: bool = False):
        self.root, self.stamps, self.outside = root, stamps, dict[str, str]()
        self.lists_empty = lists_empty
        self._real = os.path.realpath(root)
        self._above = tuple(_identity(path) for path in (self._real, *Path(self._real).parents))

    def images(self, folder: Path) -> Listing:
        """List the images in a folder and its subfolders; nothing is decoded.

        A file is an image according to its suffix, or else its first bytes. Names that begin with a dot are ignored.
        Links are followed, except back to a folder above.

        Raises:
            DataError: if a folder cannot be read, a link is broken, an image is empty, or subfolders contain splits or
                masks.
        """
        listing = Listing()
        place, chain = self.root, self._above
        for part in folder.relative_to(self.root).parts:
            place = place / part
            chain = (*chain, _identity(place))
        self._walk(str(folder), str(folder), chain, listing)
        listing.paths.sort()
        listing.subfolders.sort()
        return listing

    def folders(self, folder: Path) -> list[str]:
        """Return the names of the folders in ``folder``, sorted, without hidden ones and those of operating systems.

        Raises:
            DataError: if it cannot be read, or contains a broken link.
        """
        return sorted(
            entry.name
            for entry in self._entries(str(folder))
            if self._is_folder(entry) and entry.name.casefold() not in NO_CLASSES
        )

    def files(self, folder: Path) -> tuple[list[str], LeftOut]:
        """Return the image files directly in ``folder``, sorted, and a count of its other files."""
        images, others = [], LeftOut()
        for entry in self._entries(str(folder)):
            if not self._is_folder(entry):
                found = _other_format(entry)
                if found is None:
                    images.append(entry.path)
                else:
                    others.add(entry.name, found[0])
        return sorted(images), others

    def _walk(self, folder: str, top: str, chain: tuple[tuple[int, int], ...], listing: Listing) -> None:
        images, subfolders = 0, []
        for entry in self._entries(folder):
            if self._is_folder(entry):
                if entry.name.casefold() not in NO_CLASSES:
                    subfolders.append(entry)
                continue
            found = _other_format(entry)
            if found is not None:
                listing.left_out.add(entry.name, found[0])
                continue
            size = entry.stat().st_size
            if size == 0 and not self.lists_empty:
                raise DataError(f"{entry.path}: the file is empty (0 bytes); restore it or remove it")
            listing.paths.append(entry.path)
            listing.bytes += size
            images += 1
        if folder != top and images:
            listing.nested += images
            listing.subfolders.append(os.path.relpath(folder, top))
        check_below_class(folder, [entry.name for entry in subfolders])
        for entry in subfolders:
            identity = _identity(entry.path)
            if identity in chain:
                listing.loops.append(entry.path)
            else:
                self._walk(entry.path, top, (*chain, identity), listing)

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Yield the non-hidden entries of a folder; it is recorded once all have been seen."""
        names = []
        try:
            changed = os.stat(folder).st_mtime_ns
            with os.scandir(folder) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if not entry.name.startswith("."):
                        yield entry
        except OSError as error:
            raise DataError(f"{folder}: cannot read this folder ({error.strerror or error})") from error
        self.stamps.add_folder(folder, changed, names)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        if entry.is_symlink():
            if not os.path.exists(entry.path):
                raise DataError(
                    f"{entry.path}: a link that leads nowhere (to {os.readlink(entry.path)}); restore what it points "
                    "to, or remove it"
                )
            target = os.path.realpath(entry.path)
            if os.path.commonpath([self._real, target]) != self._real:
                self.outside[entry.path] = target
        return entry.is_dir()


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in ``folder``: :meth:`Lister.folders` without recording anything."""
    return Lister(folder, Stamps()).folders(folder)


def files_in(folder: Path) -> tuple[list[str], LeftOut]:
    """Return the image files directly in ``folder``, sorted, and a count of its other files."""
    return Lister(folder, Stamps()).files(folder)


def _other_format(entry: os.DirEntry[str]) -> tuple[Format | None] | None:
    """Return None for an image, otherwise what the file is, as far as known."""
    if not entry.is_file():
        return (Format(_special(entry.stat().st_mode)),)
    dot = entry.name.rfind(".")
    if dot >= 0 and entry.name[dot:].lower() in SUFFIXES:
        return None
    try:
        with open_file(entry.path) as file:
            found = identify(file.read(HEAD_BYTES))
    except OSError as error:
        raise DataError(f"{entry.path}: cannot read it ({error.strerror or error})") from error
    return None if found is not None and found.readable else (found,)


def _special(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def _identity(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
