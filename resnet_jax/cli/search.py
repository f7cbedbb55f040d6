"""``resnet-jax search RECIPE --space FILE``: look for better options, many trials in one compiled program."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.options import Common, console_for, parse, typed_fields
from resnet_jax.cli.recipe import named_recipe, require_recipe
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0, AtLeast1
from resnet_jax.runs.config import RunConfig


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Options of ``search``."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """What all trials share."""
    space: Path | None = None
    """YAML file of what varies: 'optim.learning_rate: {log: [0.01, 1]}', {range: [0, 0.5]}, {int: [1, 5]} or {choice:
    [batch, group]}; and 'seed: each' for another seed every trial."""
    trials: AtLeast1 | None = None
    """Trials in all; it may be raised later."""
    budget: str | None = None
    """Time in all, such as '30 min', compilation included; it may be raised later. No trial is begun that would not
    end in time."""
    lanes: AtLeast1 | None = None
    """Trials trained side by side in one program (default: 8)."""
    sampler: Literal["tpe", "random", "qmc"] = "tpe"
    """What proposes: tpe (tree-structured Parzen estimator), random, or qmc (a Sobol sequence)."""
    eta: AtLeast1 = 3
    """Successive halving: at length/eta^k updates the best 1/eta of the trials go on. 1: all have the whole length."""
    halving: bool = True
    """Whether trials are halved; --no-halving is --eta 1."""
    finalists: AtLeast0 = 4
    """At the end train so many of the best trials of the whole length again, with two more seeds each, and take the one
    of the best mean on the validation images; 0: the best by its own seed."""
    confirm: AtLeast0 = 0
    """At the end train the best and the recipe's own values with so many seeds, and test them."""
    out: Path | None = None
    """Where it goes (default: runs/search-RECIPE-HASH; the same command goes on in the same directory)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Search for better options of a recipe. Optuna proposes; trials that differ only in numbers (rate, decay, "
    "momentum, smoothing, strength of augmentation, drop rates, seed) are lanes of one compiled program, others come "
    "in waves. They are compared on the validation images; the test images are left alone."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Search and return the result."""
    recipe = named_recipe(argv, "search")
    options = parse(
        SearchOptions,
        recipe.rest,
        verb=f"search {recipe.name}",
        about=f"{ABOUT} {recipe.about}",
        default=SearchOptions(config=recipe.config),
    )
    require_recipe(options.config, recipe)
    if options.space is None:
        raise UsageError(
            "a search needs --space FILE, a YAML file of what varies, such as the line 'optim.learning_rate: {log: "
            "[0.01, 1]}'"
        )
    if not options.halving and _typed("--eta", argv):
        raise UsageError("--no-halving and --eta contradict each other: give one of them")
    from resnet_jax.runs.length import Origin
    from resnet_jax.search.directory import Definition
    from resnet_jax.search.run import search
    from resnet_jax.search.space import read_space

    definition = Definition(
        base=options.config,
        space=read_space(options.space, options.config),
        sampler=options.sampler,
        eta=options.eta if options.halving else 1,
    )
    return search(
        definition,
        options.out,
        trials=options.trials,
        budget=options.budget,
        lanes=options.lanes,
        finalists=options.finalists,
        confirm_seeds=options.confirm,
        console=console_for(options.common),
        origin=Origin(recipe.config, typed_fields(recipe.rest, "optim.schedule")),
    )


def _typed(flag: str, argv: list[str]) -> bool:
    return any(word.partition("=")[0] == flag for word in argv)
