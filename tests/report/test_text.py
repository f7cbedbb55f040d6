"""Names of any characters arrive as they were typed: in a terminal, in every figure, in a page."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console

from resnet_jax.report import canvas, depth_figures, depth_instruments
from resnet_jax.report.ablation_plot import CellCurves, plot_ablation
from resnet_jax.report.depth_axes import DepthAxis, Line, Panel, draw_depth
from resnet_jax.report.depth_file import GradientHistory, draw_history
from resnet_jax.report.depth_page import Page, Section, Table, render_page, write_page
from resnet_jax.report.plots import plot_confusion, plot_curves
from resnet_jax.report.svg import inline_svg
from resnet_jax.report.text import PlainConsole, drawn, say, visible, working

HOSTILE = [
    "cost in $", "$x_1$", r"$\frac{1}{$", r"\$", "_hidden", "a_b^c", "[bold]b[/bold]", "[/x]", ":cat: a:b", "C:/x",
    "<b>&amp;</b>", "'\"", "a, b", "two\nlines", "-dash", "\x1b[31mred", "\0", os.fsdecode(b"\xff\xfe"), "\ud800",
    "猫 😀", "שלום", "مرحبا", "e\u0301", "", " ", "\u2028", "\ufffe", "x" * 300, "{0}", "%s", "#", "~",
]  # fmt: skip


def texts_of(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_visible_is_one_line_that_can_be_encoded(text):
    shown = visible(text)
    assert shown.encode().decode() == shown
    assert len(shown.splitlines()) <= 1
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


@settings(deadline=None)  # the first looks for the fonts
@given(st.text(st.characters(exclude_categories=())) | st.sampled_from(HOSTILE))
def test_a_figure_takes_no_text_for_mathematics_and_no_line_out_of_its_legend(text):
    from matplotlib.cbook import is_math_text

    shown = drawn(text)
    assert not is_math_text(shown)
    assert shown.replace(r"\$", "$").replace("\u200b_", "_", 1).isprintable() or not text.isprintable()
    assert not shown.startswith("_")


def test_letters_that_no_font_has_are_told_apart(monkeypatch):
    assert drawn("é∞") == "é∞"
    assert (drawn("\U0001faea"), drawn("a\U0001faeb")) == ("\\U0001faea", "a\\U0001faeb")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_terminal_shows_it_as_typed(name):
    for kind in (Console, PlainConsole):
        out = io.StringIO()
        console = kind(file=out, width=20, force_terminal=True, color_system="truecolor")
        say(console, f"run {name} end")
        assert out.getvalue() == f"run {visible(name, keep=chr(10))} end\n"
        with working(console, name):
            pass
    out = io.StringIO()
    PlainConsole(file=out, width=20).print(f"run {name}")
    assert out.getvalue() == f"run {visible(name, keep=chr(10))}\n"


def test_the_console_of_the_commands_prints_strings_as_they_are():
    out = io.StringIO()
    PlainConsole(file=out, width=20).print("[bold]x[/bold] :cat: " + "word " * 9)
    assert out.getvalue() == "[bold]x[/bold] :cat: " + "word " * 9 + "\n"


EPOCH = {"kind": "epoch", "step": 4, "epoch": 1.0, "loss": 0.9, "accuracy": 0.6, "val_loss": 0.8, "val_accuracy": 0.7}


#: All of them in a few pictures, and (slow) each alone.
TOGETHER = [pytest.param(HOSTILE[place::2], id=f"{place}::2") for place in range(2)]
ALONE = [pytest.param([name], marks=pytest.mark.slow, id=ascii(name)[:20]) for name in HOSTILE]


@pytest.mark.parametrize("names", [*TOGETHER, *ALONE])
@pytest.mark.slow
def test_every_picture_of_a_run_is_drawn(tmp_path, names):
    """Warnings are errors here: a missing glyph, an axis without room."""
    name = " ".join(names)
    plot_curves([EPOCH], tmp_path / "curves.png", title=f"resnet on {name}")
    count = len(names) + 2
    plot_confusion(np.eye(count, dtype=int), [*names, "plain", name * 2], tmp_path / "c.png", title=f"run {name}")
    history = GradientHistory((name,), np.array([0]), np.array([1, 2]), np.array([[1.0], [2.0]]))
    draw_history(history, tmp_path / "d.png", title=f"run {name}")
    cells = [CellCurves(one, f"accuracy {name}", {0: [(1.0, 0.5)]}, {1: 0.5}) for one in names]
    plot_ablation(cells, tmp_path / "a.png", title=f"Ablation of {name}")
    assert len(list(tmp_path.glob("*.png"))) == 4


@pytest.mark.parametrize("names", [*TOGETHER, *ALONE])
def test_every_part_of_a_page_about_depth_is_drawn(tmp_path, names):
    name, count = " ".join(names), len(names) + 1
    depth = DepthAxis(np.arange(count) // 2, (*names, "last"))
    ones = 2.0 ** np.arange(count)
    lines = [*(Line(one, ones) for one in names[:4]), Line("b", ones)]
    figure = draw_depth("a", f"title {name}", name, depth, [Panel(name, lines, "log")])
    table = Table(name, {name: [*names, name], "n": ones}, {name: name})
    page = Page(f"Depth of {name}", {"network": name, name: "x"}, names, [Section(name, name, [figure], [table])])
    assert write_page(page, tmp_path).read_text(encoding="utf-8")
    assert (tmp_path / "a.png").is_file()


def test_a_page_shows_markup_as_typed():
    text = render_page(Page("<b>&", {"<i>": "\udcff"}, ["<u>"], [Section("<s>")]))
    for raw, shown in (("<b>&", "&lt;b&gt;&amp;"), ("<i>", "&lt;i&gt;"), ("<u>", "&lt;u&gt;"), ("<s>", "&lt;s&gt;")):
        assert raw not in text
        assert shown in text
    assert "\\xff" in text
    assert text.encode()


def test_ticks_and_titles_are_the_names_themselves(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("resnet_jax.report.plots.save_figure", lambda figure, path: seen.append(figure))
    names = ["$a$", "_b", "[c]"]
    plot_confusion(np.eye(3, dtype=int), names, tmp_path / "c.png", title="$x$ and [y]")
    (figure,) = seen
    figure.canvas.draw()
    for label, name in zip(figure.axes[0].get_yticklabels(), names, strict=True):
        text, is_math = label._preprocess_math(label.get_text())
        assert (text.removeprefix("\u200b"), is_math) == (name, False)
    assert r"\$x\$ and [y]" in texts_of(figure)


def test_an_svg_keeps_the_text(tmp_path):
    figure = draw_depth("a", "t", "c", DepthAxis(np.array([0, 0, 0]), ("$s$",)), [Panel("p", [Line("", np.ones(3))])])
    assert ">$s$<" in inline_svg(figure.figure, "a", "<label> \udcff").replace("\n", "")


def test_no_figure_ends_without_the_common_fonts():
    """One home: nothing but canvas.py saves a figure, and the page's SVG."""
    folder = Path(canvas.__file__).parent
    saving = [path.name for path in folder.glob("*.py") if "savefig(" in path.read_text()]
    assert sorted(saving) == ["canvas.py", "svg.py"]
    assert depth_figures.draw_depth is draw_depth
    assert depth_instruments.draw_depth is draw_depth
