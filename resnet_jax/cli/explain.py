"""``resnet-jax explain RUN_DIR [IMAGE...] --out DIR``: show which parts of images a network's answers are based on."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.deploy.explain.settings import NAMES, Settings
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0, AtLeast1
from resnet_jax.runs.images import OwnImages, prepared


@dataclasses.dataclass(frozen=True)
class ExplainOptions:
    """Options of ``explain``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, or a name from `weights list`."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")] = ()
    """Image files, folders, quoted patterns, or - for a list on standard input. If none are given, examples of a split
    are explained."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The folder for report.html and a PNG file of every picture."""
    target: str | None = None
    """Name of the class, label or value to explain (default: the top prediction for each image)."""
    head: str | None = None
    """For a multi-task network, the head to explain (default: the first)."""
    methods: tuple[str, ...] = NAMES
    """The methods to apply: grad_cam, grad_cam_plus_plus, integrated_gradients, smooth_grad, occlusion."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Settings)
    checks: bool = True
    """Check every map against randomized weights and by deletion and insertion. This takes most of the time."""
    most: AtLeast1 = 16
    """The maximum number of images to explain."""
    split: str = "test"
    """The split to take examples from if no images are given, and the split of --mistakes."""
    examples: AtLeast1 = 4
    """The number of examples to explain if no images are given, evenly spaced in the split."""
    source: str | None = None
    """Data other than the run's own for examples and mistakes, such as folder:PATH. Its class names are matched with
    the run's."""
    nearest: AtLeast0 = 0
    """Number of training images to show beside each image: its nearest neighbors in the features before the
    classifier."""
    nearest_from: str | None = None
    """The data to take nearest neighbors from (default: the run's own training images; an imported network has
    none)."""
    mistakes: AtLeast0 = 0
    """Also draw contact sheets of the split: this many of its most confident mistakes, and as many of its hardest
    images."""
    checkpoint: str | None = None
    """The checkpoint to use: last or best (default: the one the run tested)."""
    data: OwnImages = dataclasses.field(default_factory=OwnImages)
    """How to prepare the images, if not as the run does."""
    class_names: Path | None = None
    """A file with the names of the network's outputs, one per line in output order (default: the names stored in the
    run)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Explain the images and return the results for each of them."""
    options = parse(ExplainOptions, argv, verb="explain", about="Show which parts of images predictions are based on.")
    if options.out is None:
        raise UsageError("say where to write: resnet-jax explain RUN_DIR [IMAGE ...] --out DIR")
    path = existing_run(options.run_dir)
    from resnet_jax.data.named import LIST, NamedImages
    from resnet_jax.deploy.explain.command import explain_run
    from resnet_jax.errors import PartialError
    from resnet_jax.report.text import say
    from resnet_jax.runs.trained import load_run, with_moved_data

    trained = prepared(load_run(path, options.checkpoint), options.data, options.class_names)
    if options.data.moved_to is not None:
        trained = with_moved_data(trained, options.data.moved_to)
    named = NamedImages(options.images, sys.stdin.buffer if LIST in options.images else ())
    result, failed = explain_run(trained, named if options.images else None, options, options.out)
    failures = Console(stderr=True)
    for line in (*failed, *(f"{name}: {why}" for name, why in named.problems)):
        say(failures, f"error: {line}")
    for line in result["said"]:
        say(console_for(options.common), line)
    if bad := len(failed) + len(named.problems):
        raise PartialError(f"{bad:,} of the images could not be explained", result)
    return result
