"""Where every figure begins and ends: a canvas without a window system, colours that all can tell apart, fonts."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

from resnet_jax.report.text import drawn, font_families, visible
from resnet_jax.runtime.files import replacing

#: Okabe and Ito's palette, which people with any common colour vision can tell apart; black is left to the text.
BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#666666"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY, "#000000")


def new_figure(size: tuple[float, float], dpi: float = 110) -> Any:
    """Return an empty figure of ``size`` inches that lays itself out.

    Figure and canvas are made by hand: pyplot would choose a window system and keep global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path, **how: Any) -> None:
    """Write a figure as PNG, its letters from every font that has them.

    It is written in one piece or not at all: one that fails leaves the old file.
    """
    use_fonts(figure)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", **how)


def figure_bytes(figure: Any) -> bytes:
    """Return a figure as the bytes of a PNG file, as :func:`save_figure` writes it."""
    buffer = io.BytesIO()
    use_fonts(figure)
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def use_fonts(figure: Any) -> None:
    """Let every text of a figure take the letters that its font lacks from other installed ones."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_family(font_families())


def headline(text: str, inches: float, size: float = 12.0) -> str:
    r"""Return a title that fits a figure of this width, in as many lines as it takes.

    Args:
        text: as it was typed.
        inches: width.
        size: of the font in points.

    >>> headline("a title of five words", 1.2)
    'a title of\nfive words'
    """
    letters = max(int(inches * 72 / (0.58 * size)), 8)
    return "\n".join(drawn(line) for line in textwrap.wrap(visible(text), letters)) or " "


def short(text: str, letters: int) -> str:
    """Return a name of at most so many letters, the middle left out of a longer one.

    >>> short("a_rather_long_name", 11), short("cat", 11)
    ('a_rat…_name', 'cat')
    """
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return f"{text[: letters - 1 - tail]}…{text[len(text) - tail :]}"
