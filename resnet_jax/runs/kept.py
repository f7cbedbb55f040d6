"""A second copy of what a run has written to its small files, so that damage to them is noticed and repaired.

``config.yaml``, ``data.json``, ``start.json`` and ``summary.json`` define a run. Whenever one of them is written,
``.written.json`` beside it gets the same text with its SHA-256. A file that cannot be read later (truncated, empty,
overwritten) is restored from there, and one that was edited is rejected with the differences. While a file is replaced,
the old and the new text are both stored, so a process may be killed at any moment. Older run directories have no
``.written.json`` and work as before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from resnet_jax.errors import DamagedError, ResNetJaxError
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.plain_json import load_json

T = TypeVar("T")

_log = logging.getLogger(__name__)

NAME = ".written.json"
#: Size in bytes of the largest file that is read.
LARGEST = 2**28

MISSING = "it is missing"


class Kept:
    """The texts that a run has written to its files.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def write(self, path: Path, text: str, *, earlier: int = 0) -> None:
        """Write a file atomically, and record its text beside it.

        Args:
            path: the file.
            text: its whole contents.
            earlier: number of earlier texts that may be restored.

        Raises:
            OSError: if it cannot be written; with its path.
        """
        texts, new = self._read(), text.encode(errors="backslashreplace").decode()
        if texts.get(path.name) == [new] and _text(path) == new:
            return
        before = _text(path)
        old = texts.get(path.name, [] if before is None else [before])
        replaced = old[-max(earlier, 1) :] if before is not None or earlier else []
        self._write({**texts, path.name: [*replaced, new]})
        write_whole(path, text)
        if replaced and not earlier:
            self._write({**texts, path.name: [new]})

    def adopt(self, *paths: Path) -> None:
        """Record the contents of existing files of an older run as what was written."""
        texts = {path.name: [text] for path in paths if (text := _text(path)) is not None}
        self._write({**texts, **self._read()})

    def forget(self) -> None:
        """Forget all records, because another run begins here."""
        if self._path.is_file():
            self._write({})

    def texts(self, path: Path) -> list[str]:
        """Return the possible contents of a file, newest last; empty if unknown."""
        return self._read().get(path.name, [])

    def read(self, path: Path, parse: Callable[[str], T], changes: Callable[[T, T], list[str]]) -> T:
        """Return the parsed contents of a file.

        Args:
            path: the file.
            parse: parses its text, or raises an exception.
            changes: returns the differences between two of them, one line each; empty if they mean the same.

        Raises:
            DamagedError: if it was edited since it was written, or cannot be read or restored.
            OSError: if the system does not allow it to be read.
        """
        known, text = self.texts(path), _text(path)
        if text is not None and text in known:
            return parse(text)
        if text is None and not known:
            path.open("rb").close()  # what the system does not let be read, it says itself
        reason = why_damaged(path, known, parse)
        if reason is None:
            return self._judged(path, parse(str(text)), [parse(old) for old in reversed(known)], changes)
        if not known:
            raise DamagedError(f"{path} is damaged ({reason}), and there is no second copy of it")
        _log.warning("warning: %s is damaged (%s): the copy of what this run wrote is used", path, reason)
        return parse(known[-1])

    def _judged(self, path: Path, found: T, known: list[T], changes: Callable[[T, T], list[str]]) -> T:
        """Return the contents of a file, if that is what was written or there is no record."""
        wrong = [changes(old, found) for old in known]
        if not all(wrong) or not known:
            return found
        raise DamagedError(
            f"{path} is not what this run wrote:\n  " + "\n  ".join(wrong[0]) + "\nRestore it (remove it, and the next "
            f"`train` writes it again), or, if the change is intended, remove {self._path}, which has the original"
        )

    def _read(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
            for name, versions in json.loads(self._path.read_text(encoding="utf-8"))["files"].items():
                texts = [one["text"] for one in versions if _sha256(one["text"]) == one["sha256"]]
                if texts and len(texts) == len(versions):
                    found[name] = texts
        return found

    def _write(self, texts: dict[str, list[str]]) -> None:
        files = {
            name: [{"sha256": _sha256(text), "text": text} for text in versions] for name, versions in texts.items()
        }
        write_whole(self._path, json.dumps({"format": 1, "files": files}, indent=1) + "\n")


def read_object(text: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: if it is not one.
    """
    try:
        raw = load_json(text)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}" if text.strip() else "it is empty") from error
    if not isinstance(raw, dict):
        raise ValueError("it is no JSON object")
    return raw


def why_damaged(path: Path, known: list[str], parse: Callable[[str], Any]) -> str | None:
    """Return why a file cannot be read, or None if it can.

    Args:
        path: the file.
        known: its possible contents; if unknown, an error of ours raised by ``parse`` is passed on.
        parse: parses its text, or raises an exception.

    Raises:
        ResNetJaxError: as described.
    """
    text = _text(path)
    if text is None:
        if not path.is_file():
            return "it is no file" if path.exists() else MISSING
        return "it is too large" if path.stat().st_size > LARGEST else "it is no text in UTF-8"
    if text in known:
        return None
    try:
        parse(text)
    except ResNetJaxError as error:
        if not known:
            raise
        return _first_line(error)
    except (ValueError, RecursionError) as error:
        return _first_line(error)
    return None


def different_fields(before: Any, after: Any) -> list[str]:
    """Return the differences between two JSON objects, one line per field.

    >>> different_fields({"mean": [0.5], "n": 1}, {"mean": [0.4], "n": 1})
    ['mean: [0.5] -> [0.4]']
    """
    names, gone = [*before, *(name for name in after if name not in before)], object()
    return [
        f"{name}: {_short(before.get(name))} -> {_short(after.get(name))}"
        for name in names
        if before.get(name, gone) != after.get(name, gone)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _text(path: Path) -> str | None:
    """Return the text of a file; None if it has none."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
