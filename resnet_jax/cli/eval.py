"""``resnet-jax eval RUN_DIR``: the accuracy of a run on one of its splits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Options of ``eval``."""

    run_dir: tyro.conf.Positional[Path]
    """The run directory."""
    split: str = "test"
    """train, val or test, as the run divided its data."""
    checkpoint: str | None = None
    """last or best (default: the one the run tested)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Evaluate and return the figures."""
    options = parse(EvalOptions, argv, verb="eval", about="Evaluate a run; every image is counted exactly once.")
    from resnet_jax.use import evaluate_run, load_run

    trained = load_run(options.run_dir, options.checkpoint)
    result = evaluate_run(trained, options.split)
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
