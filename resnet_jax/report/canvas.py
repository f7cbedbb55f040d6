"""Where every figure begins: a canvas without a window system, and colours that everybody can tell apart."""

from __future__ import annotations

from typing import Any

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
