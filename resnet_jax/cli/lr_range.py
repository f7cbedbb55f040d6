"""``resnet-jax lr-range RECIPE``: find useful learning rates with one short run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse, typed_fields
from resnet_jax.cli.recipe import named_recipe, require_recipe
from resnet_jax.errors import UsageError
from resnet_jax.runs.config import RunConfig

ABOUT = (
    "Run the learning-rate range test of Smith (2017): the rate grows exponentially over a short run, and the loss "
    "shows which rates are too small, right and too large. Good starting points are the rate at which the loss falls "
    "fastest, and a tenth of the rate at which it is lowest. The recipe's schedule and length are not used."
)


@dataclasses.dataclass(frozen=True)
class RangeOptions:
    """Options of ``lr-range``."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """The configuration to test. Every field of the recipe can be changed."""
    low: Annotated[float, tyro.conf.arg(name="from")] = 1e-5
    """The first learning rate."""
    high: Annotated[float, tyro.conf.arg(name="to")] = 10.0
    """The last learning rate."""
    steps: int = 200
    """Number of updates. The test ends early if the loss exceeds 4 times its minimum."""
    seeds: str = "1"
    """The number of seeds to train together (3 means seeds 0 to 2), or a list of seeds (3,7). The plot shows their mean
    with a band."""
    out: Path | None = None
    """The folder for lr_range.csv and lr_range.png (default: runs/lr-range-RECIPE)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Run the test and return its suggestions."""
    recipe = named_recipe(argv, "lr-range")
    options = parse(
        RangeOptions,
        recipe.rest,
        verb=f"lr-range {recipe.name}",
        about=f"{ABOUT} {recipe.about}",
        default=RangeOptions(config=recipe.config),
    )
    require_recipe(options.config, recipe)
    if unused := typed_fields(recipe.rest, "optim.schedule"):
        raise UsageError(f"lr-range has a schedule of its own: leave out --optim.schedule.{min(unused)}")
    if used := typed_fields(recipe.rest, "train") & {"length", "limit"}:
        raise UsageError(f"the length of a range test is --steps: leave out --train.{min(used)}")
    from resnet_jax.ablation.grid import parse_seeds
    from resnet_jax.runs.lr_range import lr_range
    from resnet_jax.training.interrupt import stop_on_signals

    out = options.out or Path("runs") / f"lr-range-{Path(recipe.name).stem}"
    with stop_on_signals() as stop:
        return lr_range(
            options.config,
            out,
            low=options.low,
            high=options.high,
            steps=options.steps,
            seeds=parse_seeds(options.seeds),
            console=console_for(options.common),
            stop=stop,
        )
