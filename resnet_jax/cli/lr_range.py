"""``resnet-jax lr-range RECIPE``: which learning rates lower the loss, from one short run."""

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
    "The range test of Smith (2017): the learning rate grows exponentially over a short run, and the loss says which "
    "rates are too small, right and too large. Where it falls fastest, and a tenth of where it is least, are rates to "
    "begin with. Schedule and length of the recipe are not used."
)


@dataclasses.dataclass(frozen=True)
class RangeOptions:
    """Options of ``lr-range``."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """The run whose rate is in question; every field of the recipe can be changed."""
    low: Annotated[float, tyro.conf.arg(name="from")] = 1e-5
    """First rate."""
    high: Annotated[float, tyro.conf.arg(name="to")] = 10.0
    """Last rate."""
    steps: int = 200
    """Updates; the test ends earlier once the loss is 4 times its least."""
    seeds: str = "1"
    """How many seeds are trained together (3: the seeds 0 to 2), or which (3,7); their mean is drawn with a band."""
    out: Path | None = None
    """Folder of lr_range.csv and lr_range.png (default: runs/lr-range-RECIPE)."""
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
