"""The checkpoints stored in a run directory, and whether they are intact."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

from resnet_jax.errors import DamagedError, RunError
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.training.checkpoint_folder import KINDS, CheckpointFolder, Kind
from resnet_jax.training.manifest import Manifest, Score, read_manifest, verify

State: TypeAlias = Literal["complete", "old format", "damaged", "later format", "unfinished", "set aside"]


@dataclasses.dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint of a run directory.

    Attributes:
        path: path of its folder, below ``checkpoints``.
        kind: ``last`` or ``best``; for one that was set aside, its former kind.
        step: number of updates done; None if its name does not say.
        state: ``complete``; ``old format``: from before manifests, so that nothing can be verified; ``damaged``:
            differs from what was written; ``later format``: from a newer version of this package; ``unfinished``: being
            written, or left by a killed process; ``set aside``: found damaged when a run resumed.
        verified: whether every file was compared with the manifest.
        note: what is wrong.
        score: score of the validation that it was kept for.
        size: total size of its files in bytes.
        saved: when it was saved, in seconds since 1970.
    """

    path: str
    kind: str
    step: int | None
    state: State
    verified: bool
    note: str
    score: Score | None
    size: int
    saved: float

    def to_json(self) -> dict[str, Any]:
        """Return it as the command line prints it."""
        saved = datetime.datetime.fromtimestamp(self.saved, datetime.UTC).isoformat(timespec="seconds")
        return {**dataclasses.asdict(self), "saved": saved}


def list_checkpoints(run_dir: str | Path, *, verify: bool = False) -> list[FoundCheckpoint]:
    """Return the checkpoints of a run; for a cell of an ablation, those of all its populations.

    Args:
        run_dir: the run directory; nothing in it is changed.
        verify: compare every file with the manifest, which reads all of them.

    Raises:
        UsageError: if it is not a run directory.
    """
    top = RunDirectory.existing(Path(run_dir)).checkpoints
    found = []
    for folder in _folders(top):
        for kind in KINDS:
            found += [_complete(folder, top, kind, step, verify) for step in folder.steps(kind)]
        for kind in KINDS:
            found += [_other(path, top, kind, "unfinished", path.name.split(".")[0]) for path in folder.left_over(kind)]
            for path in folder.damaged(kind):
                found.append(_other(path, top, kind, "set aside", path.name.split("-")[1]))
    return found


def _folders(top: Path) -> Iterator[CheckpointFolder]:
    yield CheckpointFolder(top)
    if top.is_dir():
        for path in sorted(top.iterdir()):
            if path.is_dir() and any((path / kind).is_dir() for kind in KINDS):
                yield CheckpointFolder(path)


def _complete(folder: CheckpointFolder, top: Path, kind: Kind, step: int, compare: bool) -> FoundCheckpoint:
    path = folder.complete(kind, step)
    state, note, manifest = "complete", "", None
    try:
        manifest = verify(path, step) if compare else read_manifest(path)
        if manifest is None:
            state, note = "old format", "written before checkpoints had digests"
    except DamagedError as error:
        state, note = "damaged", str(error)
    except RunError as error:
        state, note = "later format", str(error)
    verified = compare and state in ("complete", "damaged")
    score = _score_of(path) if state == "damaged" else None if manifest is None else manifest.score
    size, at = (_size(path), _time(path)) if manifest is None else (manifest.size, _saved(manifest, path))
    return FoundCheckpoint(path.relative_to(top).as_posix(), kind, step, state, verified, note, score, size, at)


def _other(path: Path, top: Path, kind: Kind, state: State, step: str) -> FoundCheckpoint:
    number = int(step) if step.isdecimal() else None
    name = path.relative_to(top).as_posix()
    return FoundCheckpoint(name, kind, number, state, False, "", _score_of(path), _size(path), _time(path))


def _score_of(path: Path) -> Score | None:
    """Return the score of a partly damaged checkpoint, if its manifest is intact."""
    try:
        manifest = read_manifest(path)
    except RunError:
        return None
    return None if manifest is None else manifest.score


def _saved(manifest: Manifest, path: Path) -> float:
    try:
        return datetime.datetime.fromisoformat(manifest.saved).timestamp()
    except ValueError:
        return _time(path)


def _size(folder: Path) -> int:
    try:
        return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:  # deleted meanwhile
        return 0


def _time(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def table(found: list[FoundCheckpoint], now: float) -> list[str]:
    """Return the lines of a table of checkpoints.

    Args:
        found: the checkpoints.
        now: seconds since 1970, to compute their ages.
    """
    rows = [("kind", "step", "metric", "size", "age", "state")]
    for one in found:
        metric = "" if one.score is None else f"{one.score.name} {one.score.value:.4g}"
        state = one.state if one.verified or one.state != "complete" else "complete (not verified)"
        note = f": {one.note}" if one.note else f": {one.path}" if one.state in ("unfinished", "set aside") else ""
        step = "?" if one.step is None else f"{one.step:,}"
        rows.append((one.kind, step, metric, said_bytes(one.size), _age(now - one.saved), state + note))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in rows
    ]


def said_bytes(size: int) -> str:
    """Return a size in readable form.

    >>> said_bytes(512), said_bytes(2_166_735), said_bytes(204_000_000_000)
    ('512 B', '2.2 MB', '204.0 GB')
    """
    if size < 1000:
        return f"{size} B"
    for unit, power in (("kB", 1), ("MB", 2), ("GB", 3)):
        if size < 1000 ** (power + 1) or unit == "GB":
            return f"{size / 1000**power:.1f} {unit}"
    raise AssertionError


def _age(seconds: float) -> str:
    """Return an age in its largest unit.

    >>> _age(42), _age(4000), _age(200_000)
    ('42 s', '66 min', '55 h')
    """
    for most, unit, length in ((120, "s", 1), (7200, "min", 60), (72 * 3600, "h", 3600)):
        if seconds < most:
            return f"{max(int(seconds / length), 0)} {unit}"
    return f"{int(seconds / 86400)} days"


def as_json(found: list[FoundCheckpoint]) -> dict[str, Any]:
    """Return what the command line prints with ``--json``: numbers and texts only."""
    rows = [one.to_json() for one in found]
    states = [one.state for one in found]
    return json.loads(json.dumps({"checkpoints": rows, "damaged": states.count("damaged")}))
