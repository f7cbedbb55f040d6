"""``resnet-jax predict RUN_DIR IMAGE...``: the likeliest classes of images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Options of ``predict``."""

    run_dir: tyro.conf.Positional[Path]
    """The run directory."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files."""
    top: int = 5
    """Classes to show for each image."""
    checkpoint: str | None = None
    """last or best (default: the one the run tested)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> list[dict[str, Any]]:
    """Predict and return one object per image."""
    options = parse(PredictOptions, argv, verb="predict", about="Name what is in images.")
    from resnet_jax.errors import UsageError
    from resnet_jax.use import load_run, predict_images

    if not options.images:
        raise UsageError("name at least one image: resnet-jax predict RUN_DIR IMAGE ...")
    trained = load_run(options.run_dir, options.checkpoint)
    predictions = predict_images(trained, options.images, options.top)
    console = console_for(options.common)
    for prediction in predictions:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        shown = "  ".join(f"{name} {probability:.1%}" for name, probability in pairs)
        console.print(f"{prediction.image}: {shown}", highlight=False, soft_wrap=True, markup=False)
    return [{"image": p.image, "classes": list(p.classes), "probabilities": list(p.probabilities)} for p in predictions]
