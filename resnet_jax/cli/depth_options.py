"""Options that the ``resnet-jax depth`` verbs share: what to analyze, on which images, and where to write."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from resnet_jax.cli.named import run_directory
from resnet_jax.cli.options import HOW_COMPUTED, Common, console_for
from resnet_jax.errors import RunError, UsageError
from resnet_jax.report.text import say
from resnet_jax.runs.analysis_options import AnalysisConfig, require_target
from resnet_jax.runs.directory import RunDirectory

if TYPE_CHECKING:
    from resnet_jax.runs.analysis import AnalysisTarget

#: Short forms of the analysis options.
SHORT = {**HOW_COMPUTED, "--image-size": "--data.image-size"}


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """What to analyze, with which images, and where to write."""

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TARGET")]
    """A network at initialization, by a name that `resnet-jax models` lists; a run directory; or published weights, by
    a name from `weights list`."""
    out: Path | None = None
    """Directory for arrays, figures and report.html (default: RUN_DIR/depth/VERB, or depth-NETWORK/VERB)."""
    force: bool = False
    """Write to the directory even if it contains other files."""
    config: Annotated[AnalysisConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=AnalysisConfig)
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def find(options: TargetOptions, **more: Any) -> AnalysisTarget:
    """Return the target that the options name, and print which images are used; see `analysis.find_target`.

    Args:
        options: the parsed options.
        **more: passed on to :func:`resnet_jax.runs.analysis.find_target`.
    """
    from resnet_jax.runs.analysis import find_target

    target = find_target(str(_named(options.target)), options.config, **more)
    say(console_for(options.common), f"images  {target.facts['images']}")
    return target


def require_named(options: TargetOptions) -> None:
    """Reject an unknown target before anything slow is loaded.

    Raises:
        UsageError: if it is neither a network, nor a path, nor the name of published weights.
    """
    require_target(str(_named(options.target)))


def output_directory(options: TargetOptions, ours: Sequence[str], verb: str) -> Path:
    """Return the directory to write to, without creating it.

    Args:
        options: the parsed options.
        ours: names of the files that this command writes, and replaces if they exist.
        verb: last part of the default directory, which keeps the verbs apart.

    Raises:
        UsageError: if it contains other files, or is itself a file.
    """
    out = default_directory(options.target, verb) if options.out is None else options.out
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a directory with --out")
    others = sorted(path.name for path in out.iterdir() if path.name not in ours) if out.is_dir() else []
    if others and not options.force:
        listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UsageError(f"{out} holds other things ({listed}); name another directory with --out, or give --force")
    return out


def default_directory(target: str, verb: str) -> Path:
    """Return the default output directory: in the run directory for a run, in the current directory for a named
    network.

    >>> default_directory("resnet20_cifar", "profile").as_posix(), default_directory("runs/x", "lesion").as_posix()
    ('depth-resnet20_cifar/profile', 'runs/x/depth/lesion')
    """
    from resnet_jax.models.rows import MODELS

    by_name = target in MODELS or not Path(target).exists()
    above = Path(f"depth-{target}") if by_name and Path(target).name == target else RunDirectory(Path(target)).looked
    return above / verb


def _named(target: str) -> str | Path:
    """Return a network's name unchanged; otherwise a run directory, fetched first for the name of published weights."""
    from resnet_jax.models.rows import MODELS

    return target if target in MODELS else run_directory(Path(target))


def make_directory(out: Path) -> None:
    """Create the directory, before any long computation.

    Raises:
        RunError: if it cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {out}: {error.strerror or error}; name another directory with --out") from error


def save(write: Any, path: Path) -> None:
    """Call ``write(path)``.

    Raises:
        RunError: if the file cannot be written.
    """
    try:
        write(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def draw(console: Any, write: Any) -> None:
    """Call ``write()``, which draws a report and returns its path, and print the path. A failure is only a warning.

    The arrays, which are the actual result, have been written by then.
    """
    from resnet_jax.report.views import attempt

    paths: list[Path] = []
    if attempt("the report", lambda: paths.append(write()), functools.partial(say, console)):
        say(console, f"report {paths[0]}")


def outcome(blocks: int, began: float, out: Path) -> dict[str, Any]:
    """Return what ``--json`` prints: the number of blocks, wall-clock seconds, and the process's peak memory."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"blocks": blocks, "seconds": time.perf_counter() - began, "peak_bytes": peak, "out": str(out)}
