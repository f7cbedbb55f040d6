"""A matplotlib figure as SVG that can stand in a page: its colours are the page's, its names clash with none."""

from __future__ import annotations

import io
import re
from typing import Any

from resnet_jax.report.canvas import AMBER, BLUE, GREEN, GREY, PURPLE, SKY, VERMILION
from resnet_jax.report.depth_axes import INK
from resnet_jax.report.text import visible

#: Colour of a figure -> the page's variable for it; the page has another value in the dark.
VARIABLES = {
    BLUE: "--blue", VERMILION: "--vermilion", GREEN: "--green", PURPLE: "--purple", AMBER: "--amber", SKY: "--sky",
    GREY: "--quiet",
}  # fmt: skip


def inline_svg(figure: Any, name: str, label: str) -> str:
    """Return ``figure`` as an ``<svg>`` element for an HTML page.

    Text stays text, in the page's font; ink is ``currentColor``, the palette are the page's variables; ids begin with
    ``name``. It scales with its container, and screen readers get ``label``.

    Args:
        figure: matplotlib figure whose ink is :data:`resnet_jax.report.depth_axes.INK`.
        name: unique in the page.
        label: what a screen reader says of it.
    """
    import html

    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=150)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text).replace("xlink:href", "href")
    text = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", r"font-size: \2px", text)
    text = text.replace(INK, "currentColor")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour.lower(), f"var({variable})")
    text = re.sub(r"\s*\n\s*", "\n", text)  # its indentation
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view is not None
    opening = f'<svg viewBox="{view.group(1)}" role="img" aria-label="{html.escape(visible(label), quote=True)}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
