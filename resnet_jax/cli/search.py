"""``resnet-jax search RECIPE --space FILE``: search for better options, with many trials in one compiled program."""

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
    """The configuration that all trials share."""
    space: Path | None = None
    """A YAML file of the options to search: 'optim.learning_rate: {log: [0.01, 1]}', {range: [0, 0.5]}, {int: [1, 5]}
    or {choice: [batch, group]}. Add 'seed: each' to give every trial its own seed."""
    trials: AtLeast1 | None = None
    """The total number of trials. You can raise it later."""
    budget: str | None = None
    """The total time, such as '30 min', including compilation. You can raise it later. No trial is started that would
    not finish in time."""
    lanes: AtLeast1 | None = None
    """The number of trials trained side by side in one program (default: 8)."""
    sampler: Literal["tpe", "random", "qmc"] = "tpe"
    """How trials are proposed: tpe (tree-structured Parzen estimator), random, or qmc (a Sobol sequence)."""
    eta: AtLeast1 = 3
    """Successive halving: after length/eta^k updates, only the best 1/eta of the trials continue. With 1, all trials
    run for the full length."""
    halving: bool = True
    """Whether to use successive halving; --no-halving is the same as --eta 1."""
    finalists: AtLeast0 = 4
    """At the end, train this many of the best full-length trials again with two more seeds each, and select the one
    with the best mean on the validation images. With 0, the best trial is selected by its own seed alone."""
    confirm: AtLeast0 = 0
    """At the end, train the best values and the recipe's own values with this many seeds, and test them."""
    out: Path | None = None
    """The output directory (default: runs/search-RECIPE-HASH). Run the same command again to resume."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Search for better options of a recipe. Optuna proposes the trials. Trials that differ only in numbers (learning "
    "rate, decay, momentum, smoothing, augmentation strength, drop rates, seed) run as lanes of one compiled program; "
    "the others run in waves. Trials are compared on the validation images; the test images are not used."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Run the search and return the result."""
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
