"""The recipe that a verb's first argument names, the remaining arguments, and the defaults that the help shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from resnet_jax.cli.imports import with_recipes_own
from resnet_jax.cli.options import asks_for_help, flags_last
from resnet_jax.errors import UsageError
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.legacy import translate
from resnet_jax.runs.legacy_augment import translate_flags
from resnet_jax.runs.recipes import list_recipes, load_recipe


@dataclasses.dataclass(frozen=True)
class NamedRecipe:
    """What the first argument names.

    Attributes:
        name: the name as given; RECIPE in the help of the verb itself.
        config: the recipe's values; in the help of the verb itself, those of a recipe that sets nothing.
        about: text for the help: which recipes exist, and whose defaults are shown.
        rest: the remaining arguments.
    """

    name: str
    config: RunConfig
    about: str
    rest: list[str]


def named_recipe(argv: Sequence[str], verb: str) -> NamedRecipe:
    """Separate the recipe from the other arguments.

    Raises:
        UsageError: if no recipe is named, or there is no such recipe.
    """
    words = translate(flags_last(argv))
    known = f"Recipes: digits and {len(list_recipes()) - 1} more (resnet-jax recipes), or the path of a YAML file."
    if asks_for_help(words) and len(words) > 1 and not words[1].startswith("-"):
        words = [*words[1:], words[0]]  # --help digits
    if asks_for_help(words):
        about = (
            f"{known} The defaults shown apply to a recipe file that does not set them; each recipe has its own: "
            f"resnet-jax {verb} RECIPE --help."
        )
        return NamedRecipe("RECIPE", RunConfig(), about, words)
    if not words or words[0].startswith("-"):
        without = f", or resnet-jax {verb} --data PATH without one" if verb == "train" else ""
        raise UsageError(
            f"name a recipe first, then options: resnet-jax {verb} RECIPE ...{without}. resnet-jax recipes lists them"
        )
    about = f"{known} The defaults shown are those of the recipe {words[0]}."
    try:
        config = load_recipe(words[0])
    except UsageError as error:
        if verb != "train" or words[0].endswith((".yaml", ".yml")) or not Path(words[0]).exists():
            raise
        raise UsageError(f"{error}. To train on the data in it: resnet-jax train --data {words[0]}") from error
    rest = with_recipes_own(translate_flags(words[1:], config.data.augment), config.imports)
    return NamedRecipe(words[0], config, about, rest)


def require_recipe(config: RunConfig, recipe: NamedRecipe) -> None:
    """Reject ``--recipe``, which only records where a configuration comes from.

    Raises:
        UsageError: if it was given.
    """
    if config.recipe != recipe.config.recipe:
        raise UsageError(
            f"--recipe {config.recipe} loads nothing: the recipe is the word after the verb, and that is {recipe.name}"
        )
