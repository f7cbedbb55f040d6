"""``resnet-jax ablate RECIPE``: the same training under many choices and seeds, into one table."""

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
    """What all cells share. A comma list on an option of one value, as --model.norm batch,group,none, is an axis."""
    seeds: str = "3"
    """How many seeds (5: the seeds 0 to 4), or which (3,7; a comma at the end makes a list of one: 7,)."""
    agc: str | None = None
    """Adaptive gradient clipping: off, on (the recipe's optim.agc, or 0.01) or strengths; a comma list is an axis."""
    cells: Path | None = None
    """YAML file of named cells, 'name: {dotted option: value}', crossed with the axes."""
    out: Path | None = None
    """Where it goes (default: runs/ablate-RECIPE-HASH; the same command goes on in the same directory)."""
    skip_incompatible: bool = False
    """Record cells that cannot be built in the table, with the reason, and train the others; else stop before all."""
    members_at_once: int | None = None
    """Seeds trained together at most, to fit into memory (default: all seeds of a cell in one program)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Run the ablation and return its result."""
    recipe = named_recipe(argv, "ablate")
    axes, rest = split_axes(recipe.rest)
    options = parse(
        AblateOptions,
        rest,
        verb=f"ablate {recipe.name}",
        about=f"Train every combination of choices with several seeds. {recipe.about}",
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
    """Take the comma lists on options of one value out of the arguments; return the axes and what is left.

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
