"""``resnet-jax depth profile | jacobian | lesion | check``: what happens to signals and gradients through depth."""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.bench import Choices
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.config import ModelConfig
from resnet_jax.errors import RunError, UsageError, unknown

VERBS = ("profile", "jacobian", "lesion", "check")


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Which images."""

    source: str | None = None
    """random, digits, folder:PATH, npz:PATH or tfds:NAME (default: a run's own training images; else random ones)."""
    mean: tuple[float, ...] = ()
    """Subtracted from x / 255, per channel (default: the run's, or that of the images)."""
    std: tuple[float, ...] = ()
    """Divides x / 255 - mean, per channel (default: the run's, or that of the images)."""


@dataclasses.dataclass(frozen=True)
class ProfileOptions:
    """Options of ``depth profile``."""

    target: tyro.conf.Positional[str]
    """A network, as `resnet-jax models` names it, at its initialization; or a run directory."""
    batch: int = 32
    """Images to look with."""
    out: Path | None = None
    """Directory for profile.npz, the figures and report.html (default: depth-TARGET)."""
    force: bool = False
    """Write into a directory that holds other things too."""
    seed: int = 0
    """Of the initialization, and of which images are taken or drawn."""
    norm_mode: str = "batch"
    """Batch norm normalizes by the statistics of this batch (batch, as in training) or its averages (running)."""
    choices: Annotated[Choices, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Choices)
    learning_rate: float = 0.1
    """Of the SGD whose update is measured in a named network; a run has its own optimizer."""
    checkpoint: str | None = None
    """Of a run: last or best (default: the one it tested)."""
    data: ImageSource = dataclasses.field(default_factory=ImageSource)
    """Which images."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """Choices that differ from the named network's. (model.name is TARGET.)"""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any] | None:
    """Measure, write arrays, figures and report, and return the figures."""
    if not argv or argv[0] in ("-h", "--help"):
        raise UsageError(
            "name what to look at: resnet-jax depth profile TARGET ..., jacobian TARGET ..., lesion TARGET ... or "
            "check TARGET ...; TARGET is a network's name or a run directory"
        )
    if argv[0] not in VERBS:
        raise unknown("depth verb", argv[0], VERBS)
    if argv[0] == "profile":
        return _profile(argv[1:])
    return importlib.import_module(f"resnet_jax.cli.depth_{argv[0]}").run(argv[1:])


def _profile(argv: list[str]) -> dict[str, Any]:
    began = time.perf_counter()
    about = "Signals and gradients at every block of a network, on one batch: arrays, figures, and a report to read."
    options = parse(ProfileOptions, argv, verb="depth profile", about=about)
    from resnet_jax.examine import profile_subject
    from resnet_jax.report.depth_report import FIGURES, write_profile_report

    out = output_directory(options.out, options.target, ("profile.npz", *FIGURES), force=options.force)
    console = console_for(options.common)
    with console.status(f"{options.target}: one forward and one backward pass"):
        subject = find(options)
        make_directory(out)
        found = profile_subject(subject)
    with console.status("drawing"):
        save(found.save, out / "profile.npz")
        report = write_profile_report(found, out, title=f"Depth profile of {subject.name}", facts=found.about["facts"])
    console.print(f"{len(found)} blocks; report {report}", highlight=False, soft_wrap=True, markup=False)
    return outcome(len(found), began, out)


def find(options: Any) -> Any:
    """Return the subject that the options name; see :func:`resnet_jax.examine.find_subject`."""
    from resnet_jax.examine import Looking, find_subject

    if options.model.name not in (ModelConfig().name, options.target):
        raise UsageError(f"the network is {options.target}; leave out --model.name {options.model.name}")
    choices = options.choices
    model = options.model
    for name in ("execution", "remat", "dtype"):
        there, here = getattr(model, name), getattr(choices, name)
        if there is not None and here is not None and there != here:
            raise UsageError(f"--{name} {here} and --model.{name} {there} contradict each other; give one of them")
        choices = dataclasses.replace(choices, **{name: here or there})
        model = dataclasses.replace(model, **{name: None})
    looking = Looking(
        batch=options.batch,
        seed=options.seed,
        norm_mode=options.norm_mode,
        learning_rate=options.learning_rate,
        checkpoint=options.checkpoint,
        **dataclasses.asdict(options.data),
        **dataclasses.asdict(choices),
    )
    return find_subject(options.target, looking, model)


def output_directory(out: Path | None, target: str, ours: Sequence[str], *, force: bool, verb: str = "depth") -> Path:
    """Return where to write; nothing is made yet.

    Args:
        out: as given.
        target: what is looked at.
        ours: names of files that this command writes; it replaces those of an earlier call.
        force: write beside other things too.
        verb: first part of the default directory.

    Raises:
        UsageError: it holds other things, or is a file.
    """
    out = Path(f"{verb}-{Path(target).resolve().name}") if out is None else out
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a directory with --out")
    others = sorted(path.name for path in out.iterdir() if path.name not in ours) if out.is_dir() else []
    if others and not force:
        listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UsageError(f"{out} holds other things ({listed}); name another directory with --out, or give --force")
    return out


def make_directory(out: Path) -> None:
    """Make the directory, before any long work.

    Raises:
        RunError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {out}: {error.strerror or error}") from error


def save(write: Any, path: Path) -> None:
    """Call ``write(path)``.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        write(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def outcome(blocks: int, began: float, out: Path) -> dict[str, Any]:
    """Return what ``--json`` prints: blocks, wall-clock seconds, and the largest memory this process has held."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"blocks": blocks, "seconds": time.perf_counter() - began, "peak_bytes": peak, "out": str(out)}
