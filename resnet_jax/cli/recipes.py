"""``resnet-jax recipes [NAME]``: list the shipped recipes with their expected figures, or show one in full."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse


@dataclasses.dataclass(frozen=True)
class RecipesOptions:
    """Options of ``recipes``."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = ""
    """A recipe, or the path of your own recipe file, to show in full (default: a table of all recipes)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> Any:
    """Print and return one object per recipe; for a single recipe it includes the options."""
    options = parse(RecipesOptions, argv, verb="recipes", about="List recipes with published and expected figures.")
    from resnet_jax.report.text import say
    from resnet_jax.runs.config import config_to_dict, config_to_yaml
    from resnet_jax.runs.recipe_table import HEADER, cells, expected_text, figure, recipe_rows, text_table
    from resnet_jax.runs.recipes import load_about, load_recipe

    console = console_for(options.common)
    if not options.name:
        rows = recipe_rows()
        for line in text_table([HEADER, *(cells(*row) for row in rows)]):
            say(console, line)
        say(console, "resnet-jax recipes NAME shows one in full; resnet-jax train NAME --smoke runs it for seconds.")
        return [{"name": name, **about.to_json()} for name, about in rows]
    config, about = load_recipe(options.name), load_about(options.name)
    said: list[tuple[str, str]] = []
    if about is not None:
        said = [("what", about.what), ("source", about.source)]
        said += [("published", figure(about.published))] if about.published else []
        expected = about.expected
        if expected is None:
            said += [("expected", "no figure yet"), *([("measured", about.measured)] if about.measured else [])]
        else:
            said.append(("expected", f"{expected_text(expected)} (seeds run: {expected.seeds})"))
        said += [("machine", about.machine)] if about.machine else []
        said += [("minutes", f"{about.minutes:g}")] if about.minutes else []
        said.append(("command", about.command or f"resnet-jax train {options.name}"))
        said += [("differs", line) for line in about.differs]
        said += [("smoke", ", ".join(f"{key} {value}" for key, value in about.smoke.items()))] if about.smoke else []
    for line in text_table(said) if said else ["It says nothing about itself."]:
        say(console, line)
    say(console, "")
    say(console, config_to_yaml(config).rstrip())
    return {"name": options.name, "about": about and about.to_json(), "config": config_to_dict(config)}
