"""Files of rows, one JSON object a line: read, checked, and brought to where a resumed run goes on.

A row is never half-believed. A checkpoint knows the bytes that a file had when it was saved; where the file still
begins with these, the rest is cut off and nothing else is touched. Where it does not (a file that was cut, edited or
overwritten, or is of before checkpoints knew this), every line is read: rows that are none are left out and named, and
the file as it was found is kept beside it.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_jax.report.steady_file import Position, SteadyFile, Warn, digest_of, set_aside
from resnet_jax.runtime.events import NO_EVENTS, EventLog
from resnet_jax.runtime.files import replacing

Row = dict[str, Any]
#: Returns what is wrong with a row, or None.
Check = Callable[[Row], "str | None"]

_log = logging.getLogger(__name__)

#: Bytes of the longest line that is read; no row comes near.
LONGEST = 2**24
#: Problems that a message names; the rest are counted.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a file.

    Attributes:
        number: from 1.
        raw: its bytes, with the line feed.
        row: what it says; None if it is no row.
        problem: why it is none.
        cut: whether it is the last one and has no line feed: a process was killed while it wrote it.
    """

    number: int
    raw: bytes
    row: Row | None
    problem: str | None = None
    cut: bool = False


def lines_of(path: Path, check: Check) -> Iterator[Line]:
    """Yield the lines of a file, one at a time."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LONGEST):
            number += 1
            if not raw.endswith(b"\n") and len(raw) == LONGEST:
                while (rest := file.readline(LONGEST)) and not rest.endswith(b"\n"):
                    pass
                yield Line(number, b"", None, "is longer than any row")
                continue
            row, problem = parse(raw, check)
            yield Line(number, raw, row, problem, cut=not raw.endswith(b"\n"))


def parse(raw: bytes, check: Check) -> tuple[Row | None, str | None]:
    """Return the row of a line, or what is wrong with it."""
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return None, "is not UTF-8"
    except (ValueError, RecursionError):
        return None, "is no JSON" if raw.strip() else "is empty"
    if not isinstance(row, dict):
        return None, "is no JSON object"
    problem = check(row)
    return (row, None) if problem is None else (None, problem)


def check_step(row: Row) -> str | None:
    """Return what is wrong with the step of a row."""
    step = row.get("step")
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not math.isfinite(step) or step < 0:
        return "has no step" if "step" not in row else f"has the step {str(step)[:40]!r}"
    return None


def read_rows(path: Path, check: Check) -> list[Row]:
    """Return the rows of a file, oldest first. Lines that are none are left out, and named in a warning.

    A last line that a killed process has cut is left out without a word.
    """
    if not path.is_file():
        if path.exists():
            _log.warning("warning: %s is no file: it is left out", path)
        return []
    rows, problems = [], []
    for line in lines_of(path, check):
        if line.row is not None:
            rows.append(line.row)
        elif not line.cut:
            problems.append((line.number, str(line.problem)))
    if problems:
        _log.warning("warning: %s is damaged: %s; the other %d rows are used", path, _listed(problems), len(rows))
    return rows


class RowsFile:
    """A file of rows that a run writes: brought to the step that this session starts at, then appended to.

    Args:
        path: the file.
        check: says what is wrong with a row.
        start_step: updates done when this session begins; later rows are dropped, they are written again.
        position: of the checkpoint that the session goes on from, as :meth:`position` gave it; None if it has none.
        mine: whether a row is this writer's, where several share the file: other rows are kept whatever their step.
            None: all are.
        header: the first line, which has no step; it is written where it is missing.
        warn: is told what was wrong, in a line.
        events: likewise.

    Raises:
        OSError: the file cannot be written at all; with its path.
    """

    def __init__(
        self,
        path: Path,
        check: Check,
        *,
        start_step: int,
        position: Any = None,
        mine: Callable[[Row], bool] | None = None,
        header: Row | None = None,
        warn: Warn = _log.warning,
        events: EventLog = NO_EVENTS,
    ) -> None:
        known = Position.from_json(position)
        self._path, self._check, self._start, self._mine = path, check, start_step, mine
        self._header = header
        self._warn, self._events = warn, events
        digest = None if known is None else digest_of(path, known.size)
        if known is None or digest is None or digest.hexdigest() != known.sha256:
            known, digest = self._mend(known), None
        if known.lost:
            warn(f"warning: {path} lacks {known.lost:,} rows that could not be written before step {start_step:,}")
        self._file = SteadyFile(path, known, digest=digest, warn=warn, events=events)
        if self._header is not None and not known.rows:
            self._file.write(_line(self._header))

    def write(self, row: Mapping[str, Any], step: int | None = None) -> None:
        """Append a row; a number in it that is not finite is written as null."""
        self._file.write(_line(row), step)

    def position(self) -> dict[str, Any]:
        """Return how far the file has come, for the checkpoint."""
        return self._file.position()

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._file.close()

    def _mend(self, known: Position | None) -> Position:
        """Bring the file to the start step line by line; return how far it has come then."""
        waiting = () if known is None else known.waiting
        if not os.path.lexists(self._path):
            if known is not None and known.rows:
                self._said_damaged([(0, "is missing")], known.rows, [(0, self._start)], None)
            return Position(0, "", 0, waiting)
        if not self._path.is_file():
            aside = set_aside(self._path)
            self._said_damaged([(0, "is no file")], None if known is None else known.rows, [], aside)
            return Position(0, "", 0, waiting)
        if self._start == 0 and self._mine is None:
            return Position(0, "", 0)  # a run that begins believes nothing
        found = _Reading(self._start, known is not None, self._mine, self._header)
        with replacing(self._path) as partial:
            with partial.open("wb") as file:
                for line in lines_of(self._path, self._check):
                    file.write(found.kept_of(line))
                file.flush()
                os.fsync(file.fileno())
            size = partial.stat().st_size
            digest = digest_of(partial, size)
            found.conclude(known, "" if digest is None else digest.hexdigest())
            if found.problems:
                aside = set_aside(self._path)
                lost = None if known is None else max(known.rows - found.kept, 0)
                self._said_damaged(found.problems, lost, found.gaps(), aside)
        return Position(size, "", found.kept, waiting)

    def _said_damaged(
        self, problems: list[tuple[int, str]], lost: int | None, gaps: list[tuple[int, int]], aside: Path | None
    ) -> None:
        reason = _listed(problems)
        between = ", ".join(f"between steps {first:,} and {last:,}" for first, last in gaps[:_NAMED])
        if lost:
            what = f"; {lost:,} {'row is' if lost == 1 else 'rows are'} lost{f' {between}' if between else ''}"
        else:
            what = f"; rows are missing {between}" if between else ""
        kept = "" if aside is None else f"; every readable row is kept, and the file as it was found is {aside.name}"
        self._warn(f"warning: {self._path} is not what this run wrote: {reason}{what}{kept}")
        self._events.add(
            "damaged",
            what=self._path.name,
            reason=f"{reason}{what}",
            set_aside=None if aside is None else aside.name,
        )


class _Reading:
    """What was found in a file while it was read."""

    def __init__(self, start: int, known: bool, mine: Callable[[Row], bool] | None, header: Row | None) -> None:
        self._start, self._known, self._mine, self._header = start, known, mine, header
        self._seen: set[tuple[Any, ...]] = set()
        self._steps: dict[Any, list[int]] = collections.defaultdict(list)
        self.problems: list[tuple[int, str]] = []
        self.kept = 0

    def kept_of(self, line: Line) -> bytes:
        """Return what is kept of a line: all of it or nothing, and the header before it where that is missing."""
        before = b""
        if self._header is not None and line.number == 1:
            if line.row is not None and _same_blocks(line.row, self._header):
                self.kept += 1
                return line.raw
            before, self.kept = _line(self._header), self.kept + 1
            self.problems.append((1, "is not the header of this network's blocks"))
            if line.row is None or "step" not in line.row:
                return before
        if not self._takes(line):
            return before
        self.kept += 1
        return before + (line.raw + b"\n" if line.cut else line.raw)

    def _takes(self, line: Line) -> bool:
        if line.row is None:
            if not line.cut:  # one that a killed process has cut lies after the checkpoint, or is missed below
                self.problems.append((line.number, str(line.problem)))
            return False
        if self._mine is not None and not self._mine(line.row):
            return True
        step = line.row.get("step")
        if step is None:
            self.problems.append((line.number, "is a header in the middle"))
            return False
        if step > self._start:
            return False
        names = (line.row.get("kind"), line.row.get("seed"), line.row.get("member"))
        if (*names, step) in self._seen:
            self.problems.append((line.number, f"is step {step:,} a second time"))
            return False
        self._seen.add((*names, step))
        if names[0] in (None, "train"):
            self._steps[names].append(int(step))
        return True

    def conclude(self, known: Position | None, sha256: str) -> None:
        """Say what is wrong where every line is a row and the file still is not the one that was written."""
        if known is None or self.problems or sha256 == known.sha256:
            return
        if self.kept < known.rows:
            self.problems.append((0, f"has {self.kept:,} of the {known.rows:,} lines up to step {self._start:,}"))
        else:
            self.problems.append((0, f"was changed since, somewhere before step {self._start:,}"))

    def gaps(self) -> list[tuple[int, int]]:
        """Return (step before, step after) of every place where rows are missing, by the usual distance of two."""
        found = []
        for steps in self._steps.values():
            distances = collections.Counter(b - a for a, b in itertools.pairwise(steps))
            usual = max((d for d, n in distances.items() if 5 * n >= len(steps)), default=0)  # of 3.5 they are 3 and 4
            found += [(a, b) for a, b in itertools.pairwise(steps) if usual and b - a > usual]
            if self._known and usual and self._start - steps[-1] > usual:
                found.append((steps[-1], self._start))
        return sorted(set(found))


def _same_blocks(row: Row, header: Row) -> bool:
    return "blocks" in row and len(row["blocks"]) == len(header["blocks"])


def _line(row: Mapping[str, Any]) -> bytes:
    clean = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
    return (json.dumps(clean) + "\n").encode()


def _listed(problems: list[tuple[int, str]]) -> str:
    """Say what is wrong: ``line 3 is no JSON, line 7 is empty and 12 more``."""
    named = [f"line {number} {problem}" if number else f"it {problem}" for number, problem in problems[:_NAMED]]
    rest = len(problems) - len(named)
    return ", ".join(named) + (f" and {rest:,} more" if rest else "")
