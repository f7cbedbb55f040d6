"""The table of the shipped recipes: for a terminal, and for docs/recipes.md, which contains this table."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_jax.runs.about import About, Expected, Published
from resnet_jax.runs.recipe_files import list_recipes
from resnet_jax.runs.recipes import load_about

HEADER = ("recipe", "network and training", "published", "expected here", "minutes", "machine")


def recipe_rows() -> list[tuple[str, About]]:
    """Return every shipped recipe with what it says about itself."""
    return [(name, about) for name in list_recipes() if (about := load_about(name)) is not None]


def cells(name: str, about: About) -> tuple[str, ...]:
    """Return a row of the table, one text for each of :data:`HEADER`."""
    minutes = "" if about.minutes is None else f"{about.minutes:g}"
    measured = about.measured or ("not yet run" if about.expected is None else "")
    expected = measured if about.expected is None else f"{expected_text(about.expected)}{measured and f' ({measured})'}"
    published = "" if about.published is None else figure(about.published)
    return name, about.what, published, expected, minutes, about.machine or ""


def figure(given: Published | Expected, value: float | None = None) -> str:
    """Return a figure in readable form: an accuracy in percent, other metrics with their name."""
    value = given.value if value is None else value
    return f"{100 * value:.5g} %" if given.metric == "accuracy" else f"{given.metric} {value:.4g}"


def expected_text(expected: Expected) -> str:
    """Return an expected figure with its tolerance.

    >>> expected_text(Expected("accuracy", 0.9916, 0.012))
    '99.16 ± 1.2 %'
    """
    if expected.metric != "accuracy":
        return f"{figure(expected)} ± {expected.tolerance:.4g}"
    return f"{100 * expected.value:.5g} ± {100 * expected.tolerance:.3g} %"


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines, the header first.

    >>> text_table([("a", "b"), ("long", "c")])
    ['a     b', 'long  c']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def readme_table() -> str:
    """Return the table of docs/recipes.md, in Markdown."""
    rows = [HEADER, ("---",) * len(HEADER)]
    rows += [(f"`{name}`", *rest) for name, *rest in (cells(*row) for row in recipe_rows())]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows).replace("| --- ", "|---").replace("--- |", "---|")
