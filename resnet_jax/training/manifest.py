"""The manifest of a checkpoint: size and SHA-256 of every file, written last and verified before anything is read.

Orbax writes compressed arrays without a checksum and loads a flipped bit silently. Every checkpoint therefore has a
``manifest.json`` of ours, which is compared with its files before TensorStore reads them. The manifest contains a
digest of itself, and ``_CHECKPOINT_METADATA`` records in one word (:data:`MARK`) that it exists, so that a checkpoint
with a deleted manifest is not mistaken for one from before manifests.

Later formats must keep ``format`` and ``digest`` as they are, so that a version that does not know a format can reject
it by name instead of calling it damaged.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from resnet_jax.errors import DamagedError, RunError
from resnet_jax.runtime.distribution import versions

#: Version of the checkpoints that this package writes. Those of version 1 have no manifest.
FORMAT = 2
#: Name of the manifest file.
MANIFEST = "manifest.json"
#: Orbax's own metadata file in a checkpoint.
METADATA = "_CHECKPOINT_METADATA"
#: Entry in Orbax's own file for a checkpoint that has a manifest.
MARK = "resnet_jax_format"

_LARGEST = 64 * 2**20  # bytes of a manifest: a million files
_PACKAGES = ("resnet_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Score:
    """The validation result that a state was kept for.

    Attributes:
        name: name of the metric.
        value: its value.
        mode: whether larger (``max``) or smaller (``min``) is better.

    >>> Score("accuracy", 0.9).beats(Score("accuracy", 0.8)), Score("loss", 0.9, "min").beats(Score("loss", 0.8, "min"))
    (True, False)
    """

    name: str
    value: float
    mode: Literal["max", "min"] = "max"

    @property
    def is_finite(self) -> bool:
        """Whether the value is finite."""
        return math.isfinite(self.value)

    @property
    def rank(self) -> float:
        """The value, with the sign chosen so that larger is better."""
        return -self.value if self.mode == "min" else self.value

    def beats(self, other: Score) -> bool:
        """Return whether it is strictly better than another."""
        return self.is_finite and (not other.is_finite or self.rank > other.rank)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of a manifest.

    Attributes:
        kind: ``last`` or ``best``.
        step: number of updates done.
        files: path in the checkpoint -> (bytes, SHA-256).
        score: the score of a ``best`` checkpoint of a single run.
        saved: when it was completed, UTC.
        versions: versions of the packages that wrote it.
    """

    kind: str
    step: int
    files: dict[str, tuple[int, str]]
    score: Score | None = None
    saved: str = ""
    versions: dict[str, str | None] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        """Total size of all files in bytes."""
        return sum(size for size, _ in self.files.values())

    def to_json(self) -> dict[str, Any]:
        """Return the contents of the file, without the digest."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "step": self.step,
            "score": None if self.score is None else dataclasses.asdict(self.score),
            "saved": self.saved,
            "versions": self.versions,
            "files": {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sorted(self.files.items())},
        }


def digest_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of every file below a folder, after flushing them to disk.

    Raises:
        OSError: if a file cannot be read.
    """
    found = {}
    for path in _files_below(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        found[path.relative_to(folder).as_posix()] = (size, digest)
    return found


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest to the folder of its checkpoint, and flush everything to disk.

    Raises:
        OSError: if it cannot be written.
    """
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(_text(manifest.to_json()))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk; does nothing if the system cannot."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folder
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(descriptor)


def stamped(kind: str, step: int, files: dict[str, tuple[int, str]], score: Score | None) -> Manifest:
    """Return a manifest with the current time and the installed package versions."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Manifest(kind, step, files, score, now, versions(_PACKAGES))


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a checkpoint; None if the checkpoint is from before manifests.

    Raises:
        DamagedError: if it is missing, or differs from what was written.
        RunError: if it has a later format.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        if _is_old(folder):
            return None
        raise DamagedError(f"{MANIFEST} is missing")
    _require_file(path, MANIFEST)
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise ValueError
        text = raw.decode()
        found = json.loads(text)
        digest = found.pop("digest")
        unchanged = text == _text(found) and isinstance(digest, str)
    except OSError as error:
        raise DamagedError(f"{MANIFEST} cannot be read ({error.strerror or error})") from error
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        unchanged, found = False, {}
    if not unchanged:
        raise DamagedError(f"{MANIFEST} is not what was written")
    try:
        if found["format"] != FORMAT:
            raise RunError(
                f"the checkpoint {folder} has format {found['format']}, and this version of resnet_jax reads formats "
                f"up to {FORMAT}: update resnet_jax"
            )
        score = None if found["score"] is None else Score(**found["score"])
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in found["files"].items()}
        return Manifest(found["kind"], int(found["step"]), files, score, found["saved"], found["versions"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{MANIFEST} is not one of resnet_jax") from error


def verify(folder: Path, step: int) -> Manifest | None:
    """Verify a checkpoint against its manifest, and return that; None if the checkpoint is from before manifests.

    Args:
        folder: the folder of the checkpoint.
        step: the step in its name.

    Raises:
        DamagedError: if a file differs from what was written; the message says which, and how.
        RunError: if it has a later format.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    if manifest.step != step:
        raise DamagedError(f"{MANIFEST} is of step {manifest.step:,}")
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        _require_file(path, name)
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != size:
                    raise DamagedError(f"{name} has {found:,} bytes instead of {size:,}")
                same = hashlib.file_digest(file, "sha256").hexdigest() == digest
        except OSError as error:
            raise DamagedError(f"{name} cannot be read ({error.strerror or error})") from error
        if not same:
            raise DamagedError(f"the content of {name} is not what was written (its SHA-256 differs)")
    return manifest


def _text(content: dict[str, Any]) -> str:
    """Return the text of the file: the contents and, as its last entry, their digest."""
    text = json.dumps(content, indent=1, allow_nan=False)
    return (
        json.dumps({**content, "digest": hashlib.sha256(text.encode()).hexdigest()}, indent=1, allow_nan=False) + "\n"
    )


def _is_old(folder: Path) -> bool:
    """Return whether a checkpoint without a manifest never had one: its own metadata do not mention one."""
    try:
        with (folder / METADATA).open("rb") as file:
            found = json.loads(file.read(_LARGEST))
        return isinstance(found, dict) and MARK not in (found.get("custom_metadata") or {})
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _require_file(path: Path, name: str) -> None:
    """Reject anything that is not a regular file: a pipe would be read forever.

    Raises:
        DamagedError: if it is not a regular file.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise DamagedError(f"{name} {'is missing' if missing else f'cannot be read ({error.strerror})'}") from error
    if not stat.S_ISREG(mode):
        raise DamagedError(f"{name} is no file")


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)


def copy_verified(source: Path, target: Path, files: dict[str, tuple[int, str]]) -> None:
    """Copy the files of a checkpoint to a new folder, and verify that they arrive intact.

    Args:
        source: the folder with the files.
        target: the folder to create.
        files: as returned by :func:`digest_files`.

    Raises:
        OSError: if a file cannot be read or written, or differs from ``files``.
    """
    for name, (_, digest) in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copied = hashlib.sha256()
        with (source / name).open("rb") as read, (target / name).open("wb") as written:
            while block := read.read(2**20):
                copied.update(block)
                written.write(block)
            written.flush()
            os.fsync(written.fileno())
        if copied.hexdigest() != digest:
            raise OSError(f"{source / name} changed while it was copied")
