"""``resnet-jax eval RUN_DIR``: the accuracy of a run on one of its splits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse


@dataclasses.dataclass(frozen=True)
class EvalData:
    """Other images than the run's own."""

    source: str | None = None
    """digits, folder:PATH, npz:PATH or tfds:NAME; the whole of it if it has one split only."""
    mean: tuple[float, ...] = ()
    """Subtracted from x / 255, per channel (default: the run's)."""
    std: tuple[float, ...] = ()
    """Divides x / 255 - mean, per channel (default: the run's)."""


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Options of ``eval``."""

    run_dir: tyro.conf.Positional[Path]
    """The run directory."""
    split: str = "test"
    """train, val or test, as the run divided its data."""
    checkpoint: str | None = None
    """last or best (default: the one the run tested)."""
    data: EvalData = dataclasses.field(default_factory=EvalData)
    """Other images, or another normalization."""
    reestimate: int | None = None
    """First measure batch statistics anew, on so many batches of the run's own training images, not augmented; the run
    directory stays as it is."""
    logits: Path | None = None
    """Also save the logits, in the order of the images, as a .npy file."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Evaluate and return the figures."""
    options = parse(EvalOptions, argv, verb="eval", about="Evaluate a run; every image is counted exactly once.")
    from resnet_jax.use import evaluate_run, load_run, reestimate_run, with_normalization

    trained = load_run(options.run_dir, options.checkpoint)
    if options.data.mean or options.data.std:
        trained = with_normalization(trained, options.data.mean, options.data.std)
    if options.reestimate is not None:
        trained = reestimate_run(trained, options.reestimate)
    result = evaluate_run(trained, options.split, source=options.data.source, logits=options.logits is not None)
    if result.logits is not None:
        save_array(options.logits, result.logits)
    console_for(options.common).print(
        f"{options.split} accuracy {result.accuracy:.2%} ({result.correct} of {result.examples}), "
        f"loss {result.loss:.4f}, state after step {trained.step:,}",
        highlight=False,
    )
    return {
        "accuracy": result.accuracy,
        "correct": result.correct,
        "examples": result.examples,
        "loss": result.loss,
        "split": options.split,
        "step": trained.step,
    }


def save_array(path: Path | None, array: Any) -> None:
    """Write a .npy file.

    Raises:
        RunError: it cannot be written.
    """
    import numpy as np

    from resnet_jax.errors import RunError

    assert path is not None
    try:
        with path.open("wb") as file:
            np.save(file, array)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
