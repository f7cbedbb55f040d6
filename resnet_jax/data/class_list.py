"""A list of classes, ``data.class_list``: the folders in label order, and the names of their classes.

One class per line, in the form of ImageNet's lists of synsets (``n01440764``, ``n01440764 tench, Tinca tinca``, or
separated by a tab): the first word is the folder, and the rest, or else the word itself, is the name of the class.
Folder names may contain spaces: if every folder is a whole line of the list, the lines are both folders and names.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from resnet_jax.data.index import Stamps, read_table
from resnet_jax.data.layout import shortened
from resnet_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Classes:
    """Classes in label order.

    Attributes:
        keys: their identifiers in files: their folders, or what a pattern finds.
        names: their names.
        notes: notes about them.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def order_classes(
    found: Iterable[str], class_list: str | None, stamps: Stamps, *, least_classes: int, what: str = "folder"
) -> Classes:
    """Return the classes in label order: that of the list, or sorted.

    Args:
        found: the classes that were found.
        class_list: the file, or None.
        stamps: records that the file was read.
        least_classes: 2 for training, when every class of the list must exist.
        what: the word for a class in messages.

    Raises:
        DataError: if the list does not exist, or does not match these classes; the message names them.
    """
    found = set(found)
    if class_list is None:
        return Classes(tuple(sorted(found)), tuple(sorted(found)))
    path = Path(class_list).expanduser()
    lines = _lines(path, stamps)
    if found <= set(lines):
        keys = names = lines
    else:
        words = [(*line.split(maxsplit=1), "")[:2] for line in lines]
        keys, names = [word for word, _ in words], [rest.strip() or word for word, rest in words]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {shortened(twice)} given twice; every class has one line")
    unknown = sorted(found - set(keys))
    if unknown:
        raise DataError(
            f"{path}: the list has no {shortened(unknown)} ({len(unknown):,} of {len(found):,} {what}s); need one line "
            f"for each, which begins with its {what}"
        )
    notes = []
    missing = [key for key in keys if key not in found]
    if missing:
        said = f"{len(missing):,} of {len(keys):,} classes of {path} have no {what}: {shortened(missing)}"
        if least_classes > 1:
            raise DataError(f"{said}; a network is not trained on classes without images: leave them out of the list")
        notes.append(said)
    return Classes(tuple(keys), tuple(_told_apart(keys, names)), tuple(notes))


def names_in_order(class_list: str, count: int, stamps: Stamps | None = None) -> tuple[str, ...]:
    """Return the names in a list for labels that are numbers: line ``n``, counted from 0, is class ``n``.

    Raises:
        DataError: if the list does not exist, or does not have one line per class.
    """
    path = Path(class_list).expanduser()
    lines = _lines(path, stamps or Stamps())
    if len(lines) != count:
        raise DataError(f"{path}: {len(lines):,} lines, and there are {count:,} classes; need one line for each")
    return tuple(lines)


def _lines(path: Path, stamps: Stamps) -> list[str]:
    try:
        text = read_table(path, stamps).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: this is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DataError(f"{path}: line {lines.index('') + 1} is empty; need one class a line")
    if not lines:
        raise DataError(f"{path}: the list is empty; need one class a line")
    return lines


def _told_apart(keys: Iterable[str], names: Iterable[str]) -> list[str]:
    """Add the folder to a name that several classes have, such as ImageNet's two cranes."""
    names = list(names)
    often = Counter(names)
    return [f"{name} ({key})" if often[name] > 1 else name for key, name in zip(keys, names, strict=True)]
