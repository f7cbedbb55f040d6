"""A contact sheet: examples as they are stored, and beside each what the network sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_jax.data.example import Example
from resnet_jax.report.canvas import headline as fitted, new_figure, save_figure, short
from resnet_jax.report.example_axes import TEXT, Style, colour_of, draw_example, size_of
from resnet_jax.report.text import drawn

#: Classes that the legend names; of more, the first.
MAX_NAMED = 24


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
    """

    title: str
    lines: tuple[str, ...]
    shown: Sequence[Shown]
    style: Style


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
    text = [fitted(sheet.title, across, TEXT + 3), *(fitted(line, across, TEXT) for line in sheet.lines)]
    lines = sum(part.count("\n") + 1 for part in text)
    figure = new_figure((across, height * rows + 0.18 * lines + 0.4), dpi)
    grid = figure.add_gridspec(rows, columns)
    used: set[int] = set()
    for number, one in enumerate(sheet.shown):
        inner = grid[number // columns, number % columns].subgridspec(1, 2 if pairs else 1, wspace=0.03)
        name, letters = Path(one.name).name or one.name, int(width / (2 if pairs else 1) * 15)
        for place, (state, what) in enumerate(((one.stored, "stored"), (one.seen, "seen"))[: 2 if pairs else 1]):
            if state is None:
                continue
            said = what if pairs else ""
            title = f"{short(name, letters) if place == 0 else ''}\n{said} {size_of(state.example['image'])}".rstrip()
            caption = "\n".join(short(line, letters) for line in state.label.split("\n"))
            used |= draw_example(figure, inner[place], state.example, sheet.style, title=title, caption=caption)
    figure.suptitle("\n".join(text), fontsize=TEXT, x=0.01, ha="left", linespacing=1.35)
    if used:
        named = sorted(used)[:MAX_NAMED]
        handles = [Patch(color=colour_of(k), label=drawn(short(sheet.style.class_names[k], 24))) for k in named]
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=TEXT)
    save_figure(figure, path)


def _grid(sheet: Sheet, pairs: bool) -> tuple[float, float, int]:
    """Return inches of an example across and down, and how many there are side by side."""
    meaning = sheet.style.meanings.get("image")
    if meaning == "signal":
        return (5.6, 2.4, 2) if pairs else (3.6, 2.2, 3)
    if meaning == "volume":
        return (6.4, 1.75, 2) if pairs else (3.4, 1.75, 3)
    shape = sheet.shown[0].stored.example["image"].shape
    tall = min(max(shape[0] / max(shape[1], 1), 0.6), 1.4) if len(shape) == 3 else 1.0
    side = 1.75
    return (2 * side, side * max(tall, 1.0 if pairs else tall) + 0.62, 3) if pairs else (side, side * tall + 0.62, 6)
