"""Sphinx extension: pages that are made before the site is read, and links that leave ``docs/``.

Results (``experiments/results/**/README.md``), the command line (the parsers' help) and the API (the public names of
each package) become pages in folders that git does not know. A link of a page in ``docs/`` to one of these files
becomes a link to its page; a link to another file of the repository offers that file.
"""

import importlib
import re
import types
from pathlib import Path

import api_pages
import cli_pages
import result_pages
from links import rewritten

HERE = Path(__file__).resolve().parents[1]


def generate(app) -> None:
    """Write what has changed."""
    result_pages.write(HERE)
    api_pages.write(HERE)
    cli_pages.write(HERE)


def read_source(app, docname: str, source: list[str]) -> None:
    """Turn links to files outside ``docs/`` into links to pages or files."""
    path = Path(app.env.doc2path(docname)).resolve()
    if path.suffix == ".md" and "generated: true" not in source[0][:200]:
        source[0] = rewritten(source[0], path, path)


#: A star of a shape, ``(N, *spatial, C)``, where it is not marked as code.
_STAR = re.compile(r"""(``.*?``|`.*?`)|(?<![\w*\\\\])\*(?=[a-z_]+(?:[,)\]'"]| of|$))""")


def mend_shapes(app, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep the star of a shape from beginning an emphasis."""
    lines[:] = [_STAR.sub(lambda match: match[1] or r"\*", line) for line in lines]


def keep_colons(app, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep Napoleon from taking what stands before the colon in ``Learning rate: the peak.`` for the field's type."""
    if what == "attribute" and lines and ":" in lines[0]:
        lines[0] = f": {lines[0]}"  # an empty type


def source_of(app, module: str, name: str) -> str | None:
    """Return where the source of a type alias is: that of ``dict`` would be nowhere."""
    value = getattr(importlib.import_module(module), name, None)
    return module if isinstance(value, types.GenericAlias) else None


def setup(app) -> dict:
    """Connect."""
    app.connect("builder-inited", generate, priority=100)
    app.connect("source-read", read_source)
    app.connect("viewcode-follow-imported", source_of)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # Napoleon has 500
    app.connect("autodoc-process-docstring", mend_shapes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
