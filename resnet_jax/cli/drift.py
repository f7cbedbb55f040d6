"""``resnet-jax drift RUN_DIR|FILE [SOURCE]``: test whether images still match those a network was trained for."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from resnet_jax.cli.named import run_directory
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.errors import CheckError, UsageError
from resnet_jax.fields import AtLeast1, Positive
from resnet_jax.report.text import say
from resnet_jax.runs.images import ImagePreparation

if TYPE_CHECKING:
    from resnet_jax.deploy.drift import Distance, Reference

OWN = "own"
COLUMNS = ("time", "images", "unreadable", "features", "input", "classes", "shift", "shares", "alarm")


@dataclasses.dataclass(frozen=True)
class DriftOptions:
    """Options of ``drift``."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR|FILE")]
    """A run directory, a name from `weights list`, or a file written by `resnet-jax export`. The reference is drift.npz
    in the directory, or FILE.drift.npz beside the file."""
    source: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="SOURCE")] = None
    """The images to compare with the reference: a folder, a file, a quoted pattern, or a data source (npz:PATH,
    ...)."""
    reference: str | None = None
    """Build a new reference from these images: own (the run's validation images), a folder, or a data source. A run
    that has its own images but no reference gets one from its validation images."""
    images: AtLeast1 = 2000
    """The maximum number of images in a reference. A larger set is sampled at random."""
    alarm: Positive = 0.01
    """When building a reference: the share of windows from the same distribution that raise an alarm (the false-alarm
    rate)."""
    window: AtLeast1 = 128
    """Images compared at a time. The last window may be smaller, down to 16 images."""
    watch: Positive | None = None
    """Check the folder for new images every so many seconds, until Ctrl-C. New images are compared once they fill a
    window, or when none have arrived since the last check."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """Append one row per window to this file. The columns features, input and classes hold each distance divided by its
    threshold, so a value above 1 is an alarm."""
    checkpoint: str | None = None
    """The checkpoint to use: last or best (default: the one the run tested)."""
    data: ImagePreparation = dataclasses.field(default_factory=ImagePreparation)
    """How to prepare the images, if not as the run does."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Compare the images with the reference and return one row per window."""
    options = parse(
        DriftOptions, argv, verb="drift", about="Test whether images still match those a network was trained for."
    )
    from resnet_jax.deploy.drift import Reference
    from resnet_jax.deploy.drift_watch import reference_path
    from resnet_jax.deploy.serve.engine import open_engine

    if options.watch is not None and (options.source is None or not Path(options.source).is_dir()):
        raise UsageError("--watch takes a folder: resnet-jax drift RUN_DIR FOLDER --watch 10")
    console, failures = console_for(options.common), Console(stderr=True)
    run = run_directory(options.run)
    engine = open_engine(run, (16,), checkpoint=options.checkpoint, data=options.data, watched=True)
    path = reference_path(run)
    if options.reference is not None or not path.exists():
        reference = _made(options, engine, failures)
        reference.write(path)
        say(console, f"Reference of {reference.source}, in {path}")
    else:
        reference = Reference.read(path, engine.digest)
        say(console, f"Reference of {reference.source}")
    result: dict[str, Any] = {"reference": reference.source, "images": reference.images, "alarm": reference.alarm}
    if options.source is None:
        return result
    rows = _Rows(options.out, console)
    with contextlib.closing(rows):
        if options.watch is None:
            _compare(options, engine, reference, rows, failures)
        else:
            _watch(options, engine, reference, rows, failures)
    result["windows"] = rows.rows
    alarms = sum(1 for row in rows.rows if row["alarm"])
    if alarms:
        raise CheckError(f"{alarms} of {len(rows.rows)} windows raise an alarm", result)
    return result


def _made(options: DriftOptions, engine: Any, failures: Console) -> Reference:
    from resnet_jax.deploy.drift import Reference, Seen
    from resnet_jax.deploy.drift_watch import look, source_images
    from resnet_jax.deploy.serve.options import Limits

    own = options.reference in (None, OWN)
    trained = getattr(engine, "trained", None)
    if own and (trained is None or not trained.was_trained_here):
        raise UsageError(
            f"{options.run} has no images of its own: name those of the reference, which should not be among those it "
            "was trained on: --reference FOLDER or SOURCE"
        )
    images, said = source_images(engine, None if own else options.reference, options.images)
    parts = list(look(engine, images, Limits(), lambda name, why: say(failures, f"error: {name}: {why}")))
    if not parts:
        raise UsageError(f"no image of {options.reference or 'the run'} could be read")
    classes = len(engine.classes) if engine.info()["task"] == "classification" else 0
    return Reference.of(Seen.together(parts), classes, alarm=options.alarm, source=said, digest=engine.digest)


def _compare(options: DriftOptions, engine: Any, reference: Reference, rows: _Rows, failures: Console) -> None:
    """Compare all images of a source."""
    from resnet_jax.deploy.drift_watch import Windows, look, source_images
    from resnet_jax.deploy.serve.options import Limits

    windows = Windows(reference, options.window, rows.add)
    images, _ = source_images(engine, options.source, 1 << 60)
    for seen in look(engine, images, Limits(), rows.bad(failures)):
        windows.add(seen)
    left = windows.finish()
    if left and not rows.rows:
        raise UsageError(f"{left} images of {options.source} could be read; a window has 16 or more")
    if left:
        say(failures, f"the last {left} images are too few for a window")


def _watch(options: DriftOptions, engine: Any, reference: Reference, rows: _Rows, failures: Console) -> None:
    """Compare images as they arrive in a folder, until a signal."""
    from resnet_jax.deploy.drift import LEAST
    from resnet_jax.deploy.drift_watch import Folder, Windows, look, named_files
    from resnet_jax.deploy.serve.options import Limits

    assert options.watch is not None
    assert options.source is not None
    windows, folder = Windows(reference, options.window, rows.add), Folder(options.source)
    say(failures, f"Looking at {options.source} every {options.watch:g} seconds; Ctrl-C ends it")
    while True:
        came = folder.new()
        for seen in look(engine, named_files(came), Limits(), rows.bad(failures)):
            windows.add(seen)
        if not came and windows.waiting >= LEAST:
            windows.finish()
        time.sleep(options.watch)


class _Rows:
    """Prints each window and appends it to a file."""

    def __init__(self, path: Path | None, console: Console):
        self.rows: list[dict[str, Any]] = []
        self._console, self._bad, self._file = console, 0, None
        if path is not None:
            try:
                begins = not path.exists() or path.stat().st_size == 0
                self._file = path.open("a", newline="", encoding="utf-8", buffering=1)
            except OSError as error:
                raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
            self._writer: csv.DictWriter[str] = csv.DictWriter(self._file, list(COLUMNS))
            if begins:
                self._writer.writeheader()

    def bad(self, failures: Console) -> Callable[[str, str], None]:
        """Return a callback that counts and prints images that cannot be read."""

        def add(name: str, why: str) -> None:
            self._bad += 1
            say(failures, f"error: {name}: {why}")

        return add

    def add(self, found: Distance) -> None:
        """Add a window."""
        ratios = {kind: round(ratio, 4) for kind, ratio in found.ratios.items()}
        row: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "images": found.images,
            "unreadable": self._bad,
            **ratios,
            "shift": round(found.shift, 4),
            "shares": round(found.shares, 4),
            "alarm": " ".join(found.alarms),
        }
        self._bad = 0
        self.rows = [*self.rows[-9999:], row]
        said = ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in ratios.items())
        verdict = f"ALARM: {row['alarm']}" if row["alarm"] else "as the reference"
        say(self._console, f"{row['time']}  {found.images} images  {said} of the threshold  {verdict}")
        if self._file is not None:
            self._writer.writerow(row)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
