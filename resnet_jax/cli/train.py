"""``resnet-jax train RECIPE``: train, or go on with what was stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse, typed_fields
from resnet_jax.config import RunConfig, list_recipes, load_recipe
from resnet_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of ``train``."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """What to train; every field of the recipe can be changed."""
    run_dir: Path | None = None
    """Where the run goes (default: runs/RECIPE, with a short hash if the recipe was changed). A run that is there
    goes on, also with more --train.epochs than before."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Train and return the summary."""
    recipes = ", ".join(list_recipes())
    if not argv or argv[0].startswith("-"):
        if argv and argv[0] in ("-h", "--help"):
            argv = ["digits", "--help"]  # the options are those of any recipe; the defaults shown are this one's
        else:
            raise UsageError(f"name a recipe first, then options: resnet-jax train RECIPE ... Recipes: {recipes}")
    base = load_recipe(argv[0])
    options = parse(
        TrainOptions,
        argv[1:],
        verb=f"train {argv[0]}",
        about=f"Train a network. Recipes: {recipes}, or the path of a YAML file.",
        default=TrainOptions(config=base),
    )
    from resnet_jax.length import Origin
    from resnet_jax.run import fit

    origin = Origin(base, typed_fields(argv[1:], "optim.schedule"))
    summary = fit(options.config, options.run_dir, console=console_for(options.common), origin=origin)
    return dataclasses.asdict(summary)
