"""A page as Markdown says what the HTML page says, and none of it becomes markup."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest

from resnet_jax.report.depth_page import Page, Section, Table, render_page
from resnet_jax.report.markdown_page import render_markdown

TABLE = Table("Numbers", {"name": ["a|b", "*c*"], "value": np.array([0.25, np.nan])}, {"value": "how <much>"}, True)
PAGE = Page(
    "A [page]",
    {"network": "resnet_18"},
    ["First sentence."],
    [
        Section("Figures", "Of these.", tables=[TABLE, Table("More", {"of": ["x"]}, unfolded=True)], points=["- one"]),
        Section("Code", code="print('<b>')\n"),
    ],
)


def test_both_say_the_same():
    text = render_markdown(PAGE)
    shown = re.sub(r"\\([\\`*_\[\]<>|#])", r"\1", text)
    page = html.unescape(re.sub(r"<(script|style).*?</\1>", "", render_page(PAGE), flags=re.DOTALL))
    for words in ("A [page]", "resnet_18", "First sentence.", "Of these.", "a|b", "*c*", "0.25", "how <much>", "- one"):
        assert words in shown, words
        assert words in page, words
    assert "```python\nprint('<b>')\n```" in text
    assert "<pre><code>print(" in page


def test_a_cell_is_no_markup():
    rows = [line for line in render_markdown(PAGE).splitlines() if line.startswith("|")]
    assert r"| a\|b | 0.25 |" in rows
    assert r"| \*c\* |  |" in rows
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {2, 3}


@pytest.mark.parametrize("mark", ["`", "#", "<img>", "a\nb", "\x1b[31m"])
def test_a_title_stays_one_line(mark):
    first, *_ = render_markdown(Page(mark, {}, [], [])).splitlines()
    assert first.startswith("# ")
    assert "\x1b" not in first
    assert "<" not in first.replace("\\<", "")
