"""``resnet-jax predict RUN_DIR IMAGE...``: the likeliest classes of images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from resnet_jax.cli.images import ImageOptions, prepared
from resnet_jax.cli.options import Common, console_for, parse


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Options of ``predict``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run directory."""
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Image files."""
    top: int = 5
    """Classes to show for each image."""
    checkpoint: str | None = None
    """last or best (default: the one the run tested)."""
    data: ImageOptions = dataclasses.field(default_factory=ImageOptions)
    """How the images are prepared, where that is not the run's own way."""
    class_names: Path | None = None
    """File with the names of the network's outputs, one a line in their order (default: what the run knows)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> list[dict[str, Any]]:
    """Predict and return one object per image."""
    options = parse(PredictOptions, argv, verb="predict", about="Name what is in images.")
    from resnet_jax.errors import PartialError, UsageError
    from resnet_jax.report.text import say, visible
    from resnet_jax.runs.evaluate import Predictor, load_run

    if not options.images:
        raise UsageError("name at least one image: resnet-jax predict RUN_DIR IMAGE ...")
    trained = prepared(load_run(options.run_dir, options.checkpoint), options.data, options.class_names)
    console, failures = console_for(options.common), Console(stderr=True)
    results: list[dict[str, Any]] = []
    predictor = Predictor(trained)
    for prediction in predictor.predict(options.images, options.top):
        if prediction.error is not None:
            say(failures, f"error: {prediction.error}")
            results.append({"image": prediction.image, "error": prediction.error})
            continue
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        shown = "  ".join(f"{visible(name)} {probability:.1%}" for name, probability in pairs)
        say(console, f"{visible(prediction.image)}: {shown}")
        classes, probabilities = list(prediction.classes), list(prediction.probabilities)
        results.append({"image": prediction.image, "classes": classes, "probabilities": probabilities})
    for line in predictor.said():
        say(failures, line)
    bad = [result["image"] for result in results if "error" in result]
    if bad:
        listed = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise PartialError(f"{len(bad)} of {len(results)} files could not be read: {listed}", results)
    return results
