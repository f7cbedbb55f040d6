"""``resnet-jax explain RUN_DIR [IMAGE...] --out DIR``: which parts of images a network's answers come from."""

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
    """The run directory, or a name that `weights list` lists."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")] = ()
    """Image files, folders, quoted patterns, or - for a list on standard input. None: examples of a split."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The folder to write: report.html and every picture as a PNG file."""
    target: str | None = None
    """Name of the class, label or value to explain (default: what the network says first of each image)."""
    head: str | None = None
    """Of a network with several tasks, the one to explain (default: the first)."""
    methods: tuple[str, ...] = NAMES
    """Of grad_cam, grad_cam_plus_plus, integrated_gradients, smooth_grad, occlusion."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Settings)
    checks: bool = True
    """Check every map: against randomized weights, and by deletion and insertion. It takes most of the time."""
    most: AtLeast1 = 16
    """Images that are explained at most."""
    split: str = "test"
    """Where no images are named: the split whose examples are explained, and of --mistakes."""
    examples: AtLeast1 = 4
    """Where no images are named: how many, evenly spaced in the split."""
    source: str | None = None
    """Other data than the run's own for examples and mistakes, such as folder:PATH; its class names are matched."""
    nearest: AtLeast0 = 0
    """Training images to show beside each image: the nearest by the features before the classifier."""
    nearest_from: str | None = None
    """Where these come from (default: the run's own training images; an imported network has none)."""
    mistakes: AtLeast0 = 0
    """Also draw contact sheets of the split: so many of its most confident mistakes, and of its hardest images."""
    checkpoint: str | None = None
    """last or best (default: the one the run tested)."""
    data: OwnImages = dataclasses.field(default_factory=OwnImages)
    """How the images are prepared, where that is not the run's own way."""
    class_names: Path | None = None
    """File with the names of the network's outputs, one a line in their order (default: what the run knows)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Explain; return what was found, by image."""
    options = parse(ExplainOptions, argv, verb="explain", about="Which parts of images a network's answers come from.")
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
