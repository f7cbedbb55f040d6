"""``resnet-jax ablate RECIPE``: train a recipe under many choices and seeds, and collect the results in one table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.ablation.grid import Axis, load_cells, parse_agc, parse_axis, parse_seeds, scalar_options
from resnet_jax.cli.options import Common, console_for, parse, typed_fields
from resnet_jax.cli.recipe import named_recipe, require_recipe
from resnet_jax.errors import UsageError
from resnet_jax.runs.config import RunConfig


@dataclasses.dataclass(frozen=True)
class AblateOptions:
    """Options of ``ablate``."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """The configuration that all cells share. A comma-separated list on a single-valued option, such as --model.norm
    batch,group,none, becomes an axis of the ablation."""
    seeds: str = "3"
    """The number of seeds (5 means seeds 0 to 4), or a comma-separated list of seeds (3,7; write 7, for a single
    seed)."""
    agc: str | None = None
    """Adaptive gradient clipping: off, on (the recipe's optim.agc, or 0.01), or a strength. A comma-separated list
    becomes an axis."""
    cells: Path | None = None
    """A YAML file of named cells, 'name: {dotted option: value}', which are crossed with the axes."""
    out: Path | None = None
    """The output directory (default: runs/ablate-RECIPE-HASH). Run the same command again to resume."""
    skip_incompatible: bool = False
    """Record cells that cannot be built in the table, with the reason, and train the rest. By default, such a cell
    stops the ablation before anything is trained."""
    members_at_once: int | None = None
    """The maximum number of seeds to train together, to limit memory (default: all seeds of a cell in one program)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Run the ablation and return its result."""
    recipe = named_recipe(argv, "ablate")
    axes, rest = split_axes(recipe.rest)
    options = parse(
        AblateOptions,
        rest,
        verb=f"ablate {recipe.name}",
        about=f"Train every combination of choices with several seeds, and tabulate the results. {recipe.about}",
        default=AblateOptions(config=recipe.config),
    )
    require_recipe(options.config, recipe)
    if options.config.seed != recipe.config.seed:
        raise UsageError("an ablation has several seeds: give --seeds N or --seeds A,B,... in place of --seed")
    if options.agc is not None:
        axes.append(parse_agc(options.agc, options.config))
    from resnet_jax.ablation.directory import Definition
    from resnet_jax.ablation.run import ablate
    from resnet_jax.runs.length import Origin

    definition = Definition(
        base=options.config,
        axes=tuple(axes),
        named={} if options.cells is None else load_cells(options.cells),
        seeds=parse_seeds(options.seeds),
    )
    return ablate(
        definition,
        options.out,
        skip_incompatible=options.skip_incompatible,
        members_at_once=options.members_at_once,
        console=console_for(options.common),
        origin=Origin(recipe.config, typed_fields(recipe.rest, "optim.schedule")),
    )


def split_axes(argv: list[str]) -> tuple[list[Axis], list[str]]:
    """Separate comma-separated lists on single-valued options from the other arguments; return the axes and the
    remaining arguments.

    >>> split_axes(["--model.norm", "batch,none", "--train.epochs=3", "--optim.learning-rate=0.1,0.2"])[1]
    ['--train.epochs=3']
    """
    known, axes, rest = scalar_options(), [], []
    position = 0
    while position < len(argv):
        flag, separator, value = argv[position].partition("=")
        key = flag.removeprefix("--").replace("-", "_")
        taken = 1
        if not separator and position + 1 < len(argv):
            value, taken = argv[position + 1], 2
        if flag.startswith("--") and key in known and "," in value:
            axes.append(parse_axis(key, value))
        else:
            taken = 1
            rest.append(argv[position])
        position += taken
    return axes, rest
