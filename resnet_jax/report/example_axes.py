"""One example drawn: an image, a signal or a volume, with its masks and boxes, into a cell of a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np

from resnet_jax.data.boxes import NO_BOX
from resnet_jax.data.example import Example, Meaning
from resnet_jax.report.canvas import GREY, PALETTE, short
from resnet_jax.report.text import drawn

#: Value of a mask where no class is meant.
NO_CLASS = 255
#: Channels of a signal that are lines; more are rows of a picture.
MAX_LINES = 6
#: Samples of a signal from which its spectrogram is drawn beneath it.
LONG = 2048
#: Boxes of an example that have their names beside them; of more the colours tell.
MAX_NAMED_BOXES = 6
TEXT = 8.0
"""Size of letters, points."""


@dataclass(frozen=True)
class Style:
    """How the examples of a sheet are drawn, all alike.

    Attributes:
        class_names: of masks and boxes.
        meanings: field -> what it is, ``image`` among them.
        low: value that is black, or the lower end of a signal's axis.
        high: value that is white, or the upper end.
        hz: samples a second of sounds, if that is known.
        bands: channels of an image that are drawn, three as red, green and blue or one as grey; empty: the first three.
    """

    class_names: Sequence[str]
    meanings: Mapping[str, Meaning]
    low: float = 0.0
    high: float = 255.0
    hz: int | None = None
    bands: tuple[int, ...] = ()


def colour_of(number: int) -> Any:
    """Return the colour of a class: those of the palette first, then others that repeat after 26."""
    from matplotlib import colormaps

    known = PALETTE[:6]
    return known[number] if number < len(known) else colormaps["tab20"](number % 20)


def size_of(image: np.ndarray) -> str:
    """Return the sides of an input, and its channels where they are not 1 or 3: ``500x375``, ``8000x2``."""
    sides, channels = image.shape[:-1], image.shape[-1]
    shown = sides if channels in (1, 3) and len(sides) > 1 else image.shape
    return "x".join(str(side) for side in shown)


def draw_example(figure: Any, cell: Any, example: Example, style: Style, *, title: str, caption: str) -> set[int]:
    """Draw an example.

    Args:
        figure: to draw in.
        cell: of its grid.
        example: fields as in a source: values of the input as they are stored, not normalized.
        style: of the sheet.
        title: above, lines.
        caption: below.

    Returns:
        The classes whose colours were used.
    """
    meaning: Meaning = style.meanings.get("image", "array")
    used: set[int] = set()
    match meaning:
        case "image":
            axes = figure.add_subplot(cell)
            used = _draw_image(axes, example["image"], _masks(example, style), style)
            used |= _draw_boxes(axes, example, style)
        case "volume":
            axes = figure.add_subplot(cell)
            masks = [slices(mask[..., None])[..., 0] for mask in _masks(example, style)]
            used = _draw_image(axes, slices(example["image"]), masks, style)
        case "signal":
            axes = _draw_signal(figure, cell, example["image"], style)
        case "mask" | "boxes" | "label" | "array":
            axes = figure.add_subplot(cell)
            axes.text(0.5, 0.5, f"array {example['image'].shape}", ha="center", va="center", fontsize=TEXT)
            axes.set_axis_off()
        case _:
            assert_never(meaning)
    first = axes if not isinstance(axes, tuple) else axes[0]
    last = axes if not isinstance(axes, tuple) else axes[-1]
    first.set_title("\n".join(drawn(line) for line in title.split("\n")), fontsize=TEXT - 1, color=GREY, pad=3)
    last.set_xlabel("\n".join(drawn(line) for line in caption.split("\n")), fontsize=TEXT, labelpad=3)
    return used


def _masks(example: Example, style: Style) -> list[np.ndarray]:
    return [
        np.squeeze(values, -1) if values.ndim == example["image"].ndim else values
        for name, values in example.items()
        if name != "image" and style.meanings.get(name) == "mask"
    ]


def as_colours(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return (h, w, c) of any numbers as colours 0..1, (h, w, 3): one channel grey, else the first as red, green, blue.

    Of two channels blue is left black. A value that is not finite is drawn red.
    """
    values = np.asarray(image, np.float64)
    shown = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    if image.shape[-1] == 1:
        colours = np.repeat(shown, 3, axis=-1)
    else:
        colours = np.zeros((*image.shape[:2], 3))
        colours[..., : min(image.shape[-1], 3)] = shown[..., :3]
    colours[~np.isfinite(values).all(axis=-1)] = (1.0, 0.0, 0.0)
    return colours


def _draw_image(axes: Any, image: np.ndarray, masks: Sequence[np.ndarray], style: Style) -> set[int]:
    from matplotlib.colors import to_rgb

    if style.bands and image.shape[-1] > max(style.bands):
        image = image[..., list(style.bands)]
    colours, used = as_colours(image, style.low, style.high), set[int]()
    for mask in masks:
        for number in np.unique(mask).tolist():
            if number == NO_CLASS:
                used.add(number)
            elif 0 <= number < len(style.class_names):
                used.add(number)
                where = mask == number
                colours[where] = 0.45 * colours[where] + 0.55 * np.array(to_rgb(colour_of(number)))
    # pixels of small images are squares; large images lose nothing to see by being averaged
    axes.imshow(colours, interpolation="nearest" if max(image.shape[:2]) <= 96 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("N")
    axes.spines[:].set_color("#BBBBBB")
    return used


def _draw_boxes(axes: Any, example: Example, style: Style) -> set[int]:
    from matplotlib.patches import Rectangle

    if style.meanings.get("boxes") != "boxes":
        return set()
    boxes = example["boxes"]
    labels = example.get("box_label", np.zeros(len(boxes), np.int64))
    shown = [(box, int(number)) for box, number in zip(boxes.tolist(), labels, strict=True) if number != NO_BOX]
    for (top, left, bottom, right), number in shown:
        colour = colour_of(number)
        corner, width, height = (left - 0.5, top - 0.5), right - left, bottom - top
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.3))
        if len(shown) <= MAX_NAMED_BOXES and number < len(style.class_names):
            name = drawn(short(style.class_names[number], 14))
            box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
            text = {"fontsize": TEXT - 2, "color": "white", "va": "top", "clip_on": True}
            axes.text(left, top, name, bbox=box, **text)
    return {number for _, number in shown}


def slices(volume: np.ndarray, at: Sequence[int] | None = None, between: float | None = None) -> np.ndarray:
    """Return slices of (d, h, w, c) across depth, height and width, side by side, (h', w', c).

    Args:
        volume: what is cut.
        at: where, a position along each of the three (default: in the middle).
        between: value between the slices (default: the largest of the volume or of its type of integers).
    """
    depth, height, width = (side // 2 for side in volume.shape[:3]) if at is None else at
    parts = [volume[depth], volume[:, height], volume[:, :, width]]
    tall = max(part.shape[0] for part in parts)
    largest = np.iinfo(volume.dtype).max if volume.dtype.kind in "iu" else np.nanmax(volume)
    colour = largest if between is None else between
    gap = max(1, tall // 20)
    padded = []
    for part in parts:
        above = (tall - part.shape[0]) // 2
        around = ((above, tall - part.shape[0] - above), (0, gap), (0, 0))
        padded.append(np.pad(part, around, constant_values=colour))
    return np.concatenate(padded, axis=1)[:, :-gap]


def _draw_signal(figure: Any, cell: Any, signal: np.ndarray, style: Style) -> tuple[Any, ...]:
    """Draw lines; beneath a long signal of one or two channels its spectrogram; of many channels a picture."""
    length, channels = signal.shape
    if channels > MAX_LINES:
        axes = figure.add_subplot(cell)
        axes.imshow(signal.T, aspect="auto", origin="lower", cmap="magma", vmin=style.low, vmax=style.high)
        axes.set_ylabel("channel", fontsize=TEXT - 1)
        _small_ticks(axes)
        return (axes,)
    is_long = length >= LONG and channels <= 2
    grid = cell.subgridspec(2 if is_long else 1, 1, hspace=0.05)
    axes = figure.add_subplot(grid[0])
    rate = style.hz if is_long and style.hz else 1
    times = np.arange(length) / rate
    for channel in range(channels):
        axes.plot(times, signal[:, channel], color=PALETTE[channel], linewidth=0.5 if is_long else 1.1)
    margin = 0.05 * (style.high - style.low)
    axes.set(xlim=(0, max(times[-1], 1 / rate)), ylim=(style.low - margin, style.high + margin))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _small_ticks(axes)
    if not is_long:
        return (axes,)
    axes.tick_params(labelbottom=False)
    below = figure.add_subplot(grid[1], sharex=axes)
    below.imshow(
        _spectrogram(signal.astype(np.float64).mean(axis=1)),
        aspect="auto",
        origin="lower",
        cmap="magma",
        extent=(0, length / rate, 0, rate / 2),
    )
    below.set_ylabel("Hz" if rate > 1 else "cycles a sample", fontsize=TEXT - 2)
    _small_ticks(below)
    if rate > 1:
        below.xaxis.set_major_formatter("{x:g} s")
    return axes, below


def _spectrogram(signal: np.ndarray, window: int = 256) -> np.ndarray:
    """Return decibels (window / 2 + 1, frames) of a signal (n,), 80 at most below the loudest."""
    hop = window // 2
    frames = np.lib.stride_tricks.sliding_window_view(signal, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)).T ** 2
    decibels = 10 * np.log10(np.maximum(power, 1e-30))
    return np.maximum(decibels, decibels.max() - 80)


def _small_ticks(axes: Any) -> None:
    axes.tick_params(labelsize=TEXT - 2, length=2, pad=1.5)
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=5)
