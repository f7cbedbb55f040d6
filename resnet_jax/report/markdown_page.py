"""A page as Markdown: the same facts, sentences, tables and figures as the HTML page of it, in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.report.depth_page import Page, Section, Table
from resnet_jax.report.numbers import short_number
from resnet_jax.report.text import visible


def render_markdown(page: Page) -> str:
    """Return a page as Markdown; figures are the PNG files that :func:`.write_page` writes beside it."""
    parts = [f"# {marked(page.title)}\n", *(f"{marked(sentence)}\n" for sentence in page.summary)]
    if page.facts:
        parts.append(_rows({"what": list(page.facts), "value": list(page.facts.values())}))
    return "\n".join([*parts, *(_section(section) for section in page.sections)])


def marked(text: Any) -> str:
    r"""Return text in one line, with what Markdown would take for its own marks escaped.

    >>> marked("a|b_c\n*d*")
    'a\\|b\\_c \\*d\\*'
    """
    plain = visible(" ".join(str(text).split()))
    for mark in "\\`*_[]<>|#":
        plain = plain.replace(mark, f"\\{mark}")
    return plain


def _section(section: Section) -> str:
    parts = [f"## {marked(section.title)}\n", *(f"{marked(each)}\n" for each in section.paragraphs)]
    if section.points:
        parts.append("".join(f"- {marked(point)}\n" for point in section.points))
    if section.code:
        parts.append(f"```python\n{section.code}```\n")
    parts += [
        f"![{marked(figure.title)}]({figure.name}.png)\n\n{marked(figure.caption)}\n"
        for figure in section.figures
        if not figure.empty
    ]
    parts += [_table(table, alone=len(section.tables) == 1) for table in section.tables]
    return "\n".join(parts)


def _table(table: Table, *, alone: bool) -> str:
    rows = _rows(table.columns)
    meaning = "".join(f"- {marked(name)}: {marked(text)}\n" for name, text in table.meaning.items())
    title = "" if alone else f"{marked(table.title)}:\n\n"
    return title + rows + (f"\n{meaning}" if meaning else "")


def _rows(columns: Mapping[str, np.ndarray | Sequence[str]]) -> str:
    cells = [
        [marked(v if isinstance(v, str) else short_number(v)) for v in (c.tolist() if isinstance(c, np.ndarray) else c)]
        for c in columns.values()
    ]
    lines = [[marked(name) for name in columns], ["---"] * len(columns), *map(list, zip(*cells, strict=True))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
