"""A contact sheet: examples as they are stored, and beside each what the network sees of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_jax.data.example import Example
from resnet_jax.report.canvas import GREY, headline as fitted, new_figure, save_figure, short
from resnet_jax.report.example_axes import NO_CLASS, TEXT, Style, colour_of, draw_example, size_of
from resnet_jax.report.text import drawn

#: Classes that the legend names; of more, the first.
MAX_NAMED = 24
#: Points of the headline, and how far apart lines are, in their size.
TITLE, LINE = 12.0, 1.4


@dataclass(frozen=True, eq=False)
class Seen:
    """An example in one state.

    Attributes:
        example: its fields, values of the input as they are stored.
        label: what it should be told to be, in words; empty where masks or boxes say it.
    """

    example: Example
    label: str = ""


@dataclass(frozen=True, eq=False)
class Shown:
    """One example of a sheet.

    Attributes:
        name: where it comes from.
        stored: as it is stored.
        seen: as the network sees it; None where no network is meant.
    """

    name: str
    stored: Seen
    seen: Seen | None = None


@dataclass(frozen=True, eq=False)
class Sheet:
    """What is on a contact sheet.

    Attributes:
        title: what is shown.
        lines: what was done, and what else there is to say.
        shown: the examples.
        style: how they are drawn.
        states: what the two states of an example are called.
    """

    title: str
    lines: tuple[str, ...]
    shown: Sequence[Shown]
    style: Style
    states: tuple[str, str] = ("stored", "seen")


def draw_sheet(sheet: Sheet, path: Path, *, dpi: float = 110) -> None:
    """Draw a contact sheet.

    Args:
        sheet: what is on it.
        path: PNG to write.
        dpi: pixels an inch.
    """
    from matplotlib.patches import Patch

    pairs = any(one.seen is not None for one in sheet.shown)
    width, height, columns = _grid(sheet, pairs)
    columns = min(columns, len(sheet.shown))
    rows = -(-len(sheet.shown) // columns)
    across = max(width * columns, 6.5)
    drawing = {
        "volume": ("drawn: middle slices across depth, height and width",),
        "signal": (
            "drawn: value over time, in samples or, where it says s, seconds; beneath long signals their spectrogram, "
            "80 dB from black to bright",
        ),
    }.get(sheet.style.meanings.get("image", ""), ())
    title, said = (
        fitted(sheet.title, across, TITLE),
        "\n".join(fitted(line, across, TEXT) for line in (*sheet.lines, *drawing)),
    )
    above = (LINE * (title.count("\n") + 1) * TITLE + LINE * (said.count("\n") + 1) * TEXT + 10) / 72
    figure = new_figure((across, height * rows + above + 0.3), dpi)
    header, body = figure.subfigures(2, 1, height_ratios=(above, height * rows + 0.3))
    down = 1 - 4 / 72 / above
    header.text(0.01, down, title, fontsize=TITLE, va="top", linespacing=LINE)
    down -= LINE * (title.count("\n") + 1) * TITLE / 72 / above
    header.text(0.01, down, said, fontsize=TEXT, va="top", linespacing=LINE)
    grid = body.add_gridspec(rows, columns, wspace=0.1 if pairs else 0.04)
    used: set[int] = set()
    for number, one in enumerate(sheet.shown):
        inner = grid[number // columns, number % columns].subgridspec(1, 2 if pairs else 1, wspace=0.02)
        name, letters = _place(one.name), int(width / (2 if pairs else 1) * 15)
        states = tuple(zip((one.stored, one.seen), sheet.states, strict=True))
        for place, (state, what) in enumerate(states if pairs else states[:1]):
            if state is None:
                continue
            said = what if pairs else ""
            size = size_of(state.example["image"])
            title = f"{short(name, letters) if place == 0 else ''}\n{f'{said}, ' if said else ''}{size}"
            caption = "\n".join(short(line, letters) for line in state.label.split("\n"))
            used |= draw_example(body, inner[place], state.example, sheet.style, title=title, caption=caption)
    if used:
        named = sorted(used - {NO_CLASS})[:MAX_NAMED]
        handles: list[Patch] = [
            Patch(color=colour_of(k), label=drawn(short(sheet.style.class_names[k], 24))) for k in named
        ]
        if NO_CLASS in used:
            handles.append(Patch(facecolor="none", edgecolor=GREY, label="not colored: no class"))
        if len(used) > MAX_NAMED:
            handles.append(Patch(color="none", label=f"and {len(used) - MAX_NAMED:,} more classes"))
        body.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=TEXT)
    save_figure(figure, path)


def _place(name: str) -> str:
    """Return where an example comes from without the folders: ``index 3 of x.npz``, ``cat.jpg``.

    >>> _place("/data/pets/cat.jpg"), _place("index 3 of x and y of /data/my pets.npz"), _place("index 3 of digits")
    ('cat.jpg', 'index 3 of my pets.npz', 'index 3 of digits')
    """
    number = re.match(r"(\w+ [\d,]+) of ", name)
    last = name.rpartition(" of ")[2] if number else name
    return (f"{number[1]} of " if number else "") + (Path(last).name or last)


def _grid(sheet: Sheet, pairs: bool) -> tuple[float, float, int]:
    """Return inches of an example across and down, and how many there are side by side."""
    meaning = sheet.style.meanings.get("image")
    if meaning == "signal":
        return (5.6, 2.4, 2) if pairs else (3.6, 2.2, 3)
    if meaning == "volume":
        return (6.4, 1.6, 2) if pairs else (3.4, 1.65, 3)
    shape = sheet.shown[0].stored.example["image"].shape
    tall = min(max(shape[0] / max(shape[1], 1), 0.6), 1.4) if len(shape) == 3 else 1.0
    side = 1.75
    return (2 * side, side * max(tall, 1.0 if pairs else tall) + 0.52, 3) if pairs else (side, side * tall + 0.52, 6)
