"""``resnet-jax train RECIPE``: train, or go on with what was stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse, typed_fields
from resnet_jax.cli.recipe import named_recipe, require_recipe
from resnet_jax.runs.config import RunConfig


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of ``train``."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """What to train; every field of the recipe can be changed."""
    run_dir: Path | None = None
    """Where the run goes (default: runs/RECIPE, with a short hash if the recipe was changed). A run that is there
    goes on, also with a larger --train.length than before."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Train and return the summary."""
    recipe = named_recipe(argv, "train")
    options = parse(
        TrainOptions,
        recipe.rest,
        verb=f"train {recipe.name}",
        about=f"Train a network. {recipe.about}",
        default=TrainOptions(config=recipe.config),
    )
    require_recipe(options.config, recipe)
    from resnet_jax.runs.fit import fit
    from resnet_jax.runs.length import Origin

    origin = Origin(recipe.config, typed_fields(recipe.rest, "optim.schedule"))
    fitted = fit(options.config, options.run_dir, console=console_for(options.common), origin=origin)
    return fitted.summary.to_json()
