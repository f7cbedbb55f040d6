"""One HTML page: facts, sentences, figures, numbers. It needs no network, no font and no other file.

Every instrument of depth, and a comparison of runs, makes a :class:`Section` or two; :func:`write_page` puts them into
one page, and the figures beside it.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from resnet_jax.errors import RunError
from resnet_jax.report.depth_axes import DepthFigure
from resnet_jax.report.numbers import short_number
from resnet_jax.report.picture import Picture
from resnet_jax.report.svg import inline_svg
from resnet_jax.report.text import visible
from resnet_jax.runtime.files import write_whole

REPORT = "report.html"


def escape(text: str) -> str:
    """Return text as a page shows it as typed."""
    return html.escape(visible(text))


@dataclasses.dataclass(frozen=True)
class Table:
    """Numbers to look up.

    Attributes:
        title: of the table.
        columns: name -> values, one per row: numbers or text.
        meaning: name -> what the column is, for those that need it.
        unfolded: whether it is seen at once.
    """

    title: str
    columns: Mapping[str, np.ndarray | Sequence[str]]
    meaning: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unfolded: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: headline.
        text: one paragraph, or "".
        figures: those that are empty are left out; pictures of pixels stand before the others, side by side.
        tables: each can be folded away.
        points: sentences, as a list beneath the text.
        code: lines to type or to run.
    """

    title: str
    text: str = ""
    figures: Sequence[DepthFigure | Picture] = ()
    tables: Sequence[Table] = ()
    points: Sequence[str] = ()
    code: str = ""

    @property
    def paragraphs(self) -> list[str]:
        """The text, and which figures are left out."""
        missing = ", ".join(figure.title for figure in self.figures if figure.empty)
        return [each for each in (self.text, missing and f"Left out, having no values to draw: {missing}.") if each]


@dataclasses.dataclass(frozen=True)
class Page:
    """What is written.

    Attributes:
        title: headline.
        facts: label -> value: what was measured, on what, with which versions.
        summary: sentences, the most important first.
        sections: in order.
    """

    title: str
    facts: Mapping[str, str]
    summary: Sequence[str]
    sections: Sequence[Section]

    @property
    def figures(self) -> list[DepthFigure | Picture]:
        """All figures with something in them."""
        return [figure for section in self.sections for figure in section.figures if not figure.empty]


def write_page(page: Page, folder: Path) -> Path:
    """Write ``folder/report.html`` and every figure as ``folder/NAME.png``; return the page's path.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / REPORT
        write_whole(path, render_page(page))
        for figure in page.figures:
            figure.save_png(folder)
    except OSError as error:
        raise RunError(f"cannot write the report in {folder}: {error.strerror or error}") from error
    return path


def render_page(page: Page) -> str:
    """Return the page as text."""
    anchors = [f"section-{index}" for index in range(len(page.sections))]
    contents = "".join(
        f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, page.sections, strict=True)
    )
    facts = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in page.facts.items())
    summary = "".join(f"<li>{escape(sentence)}</li>" for sentence in page.summary)
    body = "\n".join(_section(section, anchor) for section, anchor in zip(page.sections, anchors, strict=True))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src \
'unsafe-inline'; img-src data:">
<meta name="generator" content="resnet_jax">
<title>{escape(page.title)}</title>
<style>
{_resource("page.css")}</style>
</head>
<body>
<a class="skip-link" href="#main">Skip to the content</a>
<header>
<h1>{escape(page.title)}</h1>
<button type="button" id="theme" hidden>Dark</button>
</header>
<main id="main">
<section aria-labelledby="summary">
<h2 id="summary">In short</h2>
<ul class="summary">{summary}</ul>
<dl class="facts">{facts}</dl>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
</section>
{body}
</main>
<script>
{_resource("page.js")}</script>
</body>
</html>
"""


def _section(section: Section, anchor: str) -> str:
    shown = [figure for figure in section.figures if not figure.empty]
    pictures = "\n".join(_picture(one) for one in shown if isinstance(one, Picture))
    figures = "\n".join(_figure(one) for one in shown if not isinstance(one, Picture))
    tables = "\n".join(_table(table, f"{anchor}-table-{index}") for index, table in enumerate(section.tables))
    text = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs)
    if section.points:
        text += '<ul class="summary">' + "".join(f"<li>{escape(point)}</li>" for point in section.points) + "</ul>"
    if section.code:
        text += f"<pre><code>{html.escape(section.code)}</code></pre>"
    grid = f'<div class="pictures">\n{pictures}\n</div>' if pictures else ""
    grid += f'<div class="figures">\n{figures}\n</div>' if figures else ""
    return f"""<section aria-labelledby="{anchor}">
<h2 id="{anchor}">{escape(section.title)}</h2>
{text}
{grid}
{tables}
</section>"""


def _figure(figure: DepthFigure) -> str:
    label = f"{figure.title}. {figure.caption}"
    return f"""<figure id="figure-{figure.name}">
<h3>{escape(figure.title)}</h3>
{inline_svg(figure.figure, figure.name, label)}
<figcaption>{escape(figure.caption)}</figcaption>
</figure>"""


def _picture(picture: Picture) -> str:
    lines = "<br>".join(escape(line) for line in picture.caption.split("\n"))
    width = ' class="wide"' if picture.wide else ' class="double"' if picture.double else ""
    return f"""<figure id="picture-{picture.name}"{width}>
<h3>{escape(picture.title)}</h3>
{picture.markup()}
<figcaption>{lines}</figcaption>
</figure>"""


def _table(table: Table, anchor: str) -> str:
    heads = "".join(
        f'<th scope="col"{_of_text(values)}><button type="button">{escape(name)}</button></th>'
        for name, values in table.columns.items()
    )
    columns = [_cells(values) for values in table.columns.values()]
    rows = "\n".join("<tr>" + "".join(row) for row in zip(*columns, strict=True))
    meaning = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in table.meaning.items())
    legend = f'<dl class="meaning">{meaning}</dl>' if meaning else ""
    count = len(columns[0]) if columns else 0
    return f"""<details{" open" if table.unfolded else ""}>
<summary id="{anchor}">{escape(table.title)} ({count:,} row{"s" if count != 1 else ""})</summary>
<p class="hint">Choose the head of a column to sort by it.</p>
<div class="table" role="region" aria-labelledby="{anchor}" tabindex="0">
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
{legend}
</details>"""


def _of_text(values: np.ndarray | Sequence[str]) -> str:
    return ' class="text"' if len(values) and isinstance(values[0], str) else ""


def _cells(values: np.ndarray | Sequence[str]) -> list[str]:
    return [
        f'<td class="text">{escape(value)}' if isinstance(value, str) else f"<td>{short_number(value)}"
        for value in (values.tolist() if isinstance(values, np.ndarray) else values)
    ]


def _resource(name: str) -> str:
    return resources.files("resnet_jax.report").joinpath(name).read_text(encoding="utf-8")
