"""``resnet-jax features RUN_DIR [SOURCE...] --out FILE.npz``: write embeddings of images, or a stage's feature maps."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.errors import UsageError
from resnet_jax.runs.images import ImagePreparation, prepared


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """Options of ``features``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, or a name from `weights list`."""
    source: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE ...")] = ()
    """A data source (digits, folder:PATH, npz:PATH or tfds:NAME), of which all splits are used, with labels; or image
    files, folders, quoted patterns, or - for a list on standard input. If omitted, the run's own images, in its own
    splits."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """The file to write, with the arrays features, image, label, split and class_names."""
    part: str = "pooled"
    """The features to write: pooled (one vector per image), stem, stage1, stage2, ..., or final (the map that is
    pooled)."""
    batch_size: int = 16
    """Images per batch."""
    checkpoint: str | None = None
    """The checkpoint to use: last or best (default: the one the run tested)."""
    data: ImagePreparation = dataclasses.field(default_factory=ImagePreparation)
    """How to prepare the images, if not as the run does."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Write the file and return what it contains."""
    options = parse(FeatureOptions, argv, verb="features", about="Write embeddings or feature maps to a file.")
    if options.out is None:
        raise UsageError("say where to write: resnet-jax features RUN_DIR [SOURCE] --out FILE.npz")
    path = existing_run(options.run_dir)
    from resnet_jax.data.named import LIST, NamedImages
    from resnet_jax.errors import PartialError
    from resnet_jax.report.feature_file import FeatureFile
    from resnet_jax.report.text import say
    from resnet_jax.runs.features import Embedder, features_of, features_of_files, find_images
    from resnet_jax.runs.trained import load_run

    trained = prepared(load_run(path, options.checkpoint), options.data, None)
    embedder = Embedder(trained, options.part, (options.batch_size,))
    one = options.source[0] if len(options.source) == 1 else None
    described = find_images(trained, one) if len(options.source) < 2 else None
    console, failures = console_for(options.common), Console(stderr=True)
    named = NamedImages(options.source, sys.stdin.buffer if LIST in options.source else ())
    found = features_of(embedder, described) if described is not None else features_of_files(embedder, named)
    bad = []
    with FeatureFile(options.out, described.class_names if described is not None else ()) as file:
        for feature in found:
            if feature.values is None:
                say(failures, f"error: {feature.error}")
                bad.append(feature.image)
            else:
                file.add(feature.values, feature.image, feature.label, feature.split)
    for name, why in named.problems if described is None else ():
        say(failures, f"error: {name}: {why}")
        bad.append(name)
    shape = file.shape
    if shape[0] == 0:
        raise PartialError(f"no image could be read; nothing is written to {options.out}", {"features": [0]})
    for line in (*(described.notes if described is not None else ()), *embedder.said()):
        say(failures, line)
    if named.left_out.counts:
        say(failures, f"{named.left_out.counts.total():,} files skipped because they are not images: {named.left_out}")
    say(console, f"{options.part} of {shape[0]:,} images, float32 {shape}, in {options.out}")
    result = {"out": str(options.out), "part": options.part, "features": list(shape), "failed": len(bad)}
    if bad:
        listed = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise PartialError(f"{len(bad):,} of {shape[0] + len(bad):,} images could not be read: {listed}", result)
    return result
