"""``resnet-jax predict RUN_DIR IMAGE...``: print the most likely classes, the labels or the values of images."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.runs.images import ImagePreparation, prepared


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Options of ``predict``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, or a name from `weights list`."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Image files, folders (searched recursively), quoted patterns such as 'shots/**/*.jpg', or - to read file names
    from standard input, one per line. There is no limit on their number; they are processed batch by batch."""
    top: int = 5
    """Number of classes to show per image. Labels above their threshold, and values, are always all shown."""
    batch_size: int = 16
    """Images per batch."""
    out: Path | None = None
    """Write the results to this file as they are computed, instead of printing them: .csv, or .jsonl (one object per
    line). For boxes: .json (COCO format, written at the end) or .jsonl."""
    pixels: Path | None = None
    """Segmentation: write the class of every pixel to NAME.png in this folder (pixel values are class numbers), and the
    image with the classes overlaid in color to NAME_overlay.png."""
    checkpoint: str | None = None
    """The checkpoint to use: last or best (default: the one the run tested)."""
    data: ImagePreparation = dataclasses.field(default_factory=ImagePreparation)
    """How to prepare the images, if not as the run does."""
    class_names: Path | None = None
    """A file with the names of the network's outputs, one per line in output order (default: the names stored in the
    run)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> Any:
    """Predict; return one object per image, or the number of images with ``--out``."""
    options = parse(PredictOptions, argv, verb="predict", about="Predict classes, labels, values or boxes of images.")
    from resnet_jax.errors import DataError, PartialError, UsageError

    if not options.images:
        raise UsageError("name at least one image: resnet-jax predict RUN_DIR IMAGE ...")
    path = existing_run(options.run_dir)
    from resnet_jax.data.named import LIST, NamedImages
    from resnet_jax.report.pixel_files import PixelFiles
    from resnet_jax.report.predictions import InCoco, InFile, OnTerminal, Predictions
    from resnet_jax.report.text import say
    from resnet_jax.runs.predict import Predictor
    from resnet_jax.runs.trained import load_run

    trained = prepared(load_run(path, options.checkpoint), options.data, options.class_names)
    failures = Console(stderr=True)
    predictor = Predictor(trained, (options.batch_size,))
    files = None
    if options.pixels is not None:
        if predictor.task.kind != "segmentation":
            raise UsageError(
                f"--pixels is of segmentation, and {options.run_dir} is of task.kind {predictor.task.kind}"
            )
        files = PixelFiles(options.pixels)
    named = NamedImages(options.images, sys.stdin.buffer if LIST in options.images else ())
    found = predictor.predict(named, options.top)
    boxes = predictor.task.answers == "boxes"
    if options.out is None:
        keep = options.common.json
        results: Predictions = OnTerminal(console_for(options.common), failures, keep=keep)
    elif boxes and options.out.suffix.lower() == ".json":
        results = InCoco(options.out, predictor.class_names, failures)
    else:
        targets = predictor.class_names if predictor.task.answers == "values" else ()
        results = InFile(options.out, predictor.most_answers(options.top), failures, targets=targets, boxes=boxes)
    with contextlib.closing(results):
        for prediction in found:
            seen = prediction
            what = (seen.classes, seen.probabilities, seen.error, seen.values, seen.boxes, seen.sides)
            results.add(seen.image, *what)
            if files is not None and seen.error is None:
                image = predictor.read(seen.image, seen.image)
                if not isinstance(image, DataError):
                    files.add(seen.image, seen.fields["segmentation"], image)
        for name, why in named.problems:
            results.add(name, (), (), f"{name}: {why}")
    if named.left_out.counts:
        say(failures, f"{named.left_out.counts.total():,} files skipped because they are not images: {named.left_out}")
    for line in predictor.said():
        say(failures, line)
    if results.bad:
        listed = ", ".join(results.bad[:5]) + (", ..." if results.failed > 5 else "")
        raise PartialError(
            f"{results.failed:,} of {results.count:,} files could not be read: {listed}", results.result()
        )
    return results.result()
