"""Explanations as one HTML page, with every picture as a PNG file next to it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.deploy.explain.explainer import ALIKE, Explained, Map, mean_area
from resnet_jax.deploy.explain.methods import METHODS
from resnet_jax.deploy.explain.nearest import Neighbour
from resnet_jax.deploy.explain.perturbation import area
from resnet_jax.report.canvas import GREY, PALETTE, new_figure
from resnet_jax.report.depth_axes import INK, WIDTH, DepthFigure, plain
from resnet_jax.report.depth_page import Page, Section, Table, write_page
from resnet_jax.report.heat import encode_png, picture, scale_bar
from resnet_jax.report.picture import Picture
from resnet_jax.report.text import visible

_MARKERS = ("o", "s", "^", "D", "v")


def write_explanations(
    found: Sequence[Explained],
    folder: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    parts: Sequence[str],
    neighbours: Sequence[Sequence[Neighbour]] = (),
    sheets: Mapping[str, tuple[str, bytes]] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write ``report.html`` and the pictures; return the page's path.

    Args:
        found: the explanation of every image.
        folder: the folder to write to.
        title: headline.
        facts: label -> value.
        parts: parts of the randomization check, in order.
        neighbours: neighbors of every image, or nothing.
        sheets: contact sheets: file name -> title and PNG.
        notes: sentences that come first.

    Raises:
        RunError: the folder cannot be written.
    """
    sections, used = [], set[str]()
    if found and found[0].random[0].size:
        sections.append(_checks(found, parts))
    if found:
        sections.append(_reading(found[0]))
    for row, one in enumerate(found):
        sections.append(_section(one, _unused(one.name, used), parts, neighbours[row] if neighbours else ()))
    for name, (headline, png) in (sheets or {}).items():
        caption = "What it is, and what the network says, with their probabilities."
        sections.append(Section(headline, figures=[Picture(name, headline, caption, png, True)]))
    return write_page(Page(title, facts, [*notes, *summary(found, parts)], sections), folder)


def summary(found: Sequence[Explained], parts: Sequence[str]) -> list[str]:
    """Return which methods' maps can be trusted, judging by the mean checks over the images: one to three sentences."""
    if not found or not found[0].random[0].size:
        return []
    rows = _means(found)
    followed = {
        row.title for row in rows if row.deletion < row.deletion_random and row.insertion > row.insertion_random
    }
    learned = {row.title for row in rows if row.similarity < ALIKE}
    groups = (
        ("The score follows, and what was learned decides", lambda title: title in followed and title in learned),
        ("The score does not clearly follow", lambda title: title not in followed),
        ("With randomized weights much the same", lambda title: title not in learned),
    )
    sentences = []
    for what, belongs in groups:
        if titles := [row.title for row in rows if belongs(row.title)]:
            sentences.append(f"{what}: {', '.join(titles)}.")
    return sentences


class _Mean(NamedTuple):
    title: str
    deletion: float
    deletion_random: float
    insertion: float
    insertion_random: float
    similarity: float


def _means(found: Sequence[Explained]) -> list[_Mean]:
    """Return the means of the checks over the images, one row per method."""
    deleted, inserted = (mean_area([one.random[way] for one in found]) for way in (0, 1))
    rows = []
    for name in found[0].maps:
        maps = [one.maps[name] for one in found]
        ours = mean_area([each.deletion for each in maps]), mean_area([each.insertion for each in maps])
        alike = float(np.mean([each.similarity[-1] for each in maps]))
        rows.append(_Mean(METHODS[name].title, ours[0], deleted, ours[1], inserted, alike))
    return rows


def _section(one: Explained, slug: str, parts: Sequence[str], near: Sequence[Neighbour]) -> Section:
    answers = ", ".join(f"{name} {_number(number)}" for name, number in one.answers[:3]) or "nothing"
    text = f"The network says: {answers}." + (f" It is: {one.label}." if one.label else "")
    is_value = one.measure == "output"
    number = f"the network's output {one.probability:.4g}" if is_value else _number(one.probability)
    text += f" Explained: {one.target}, {number}"
    text += f", of the box {tuple(round(side) for side in one.box)} (top, left, bottom, right)." if one.box else "."
    shown: list[Any] = []

    def add(end: str, title: str, caption: str, heat: np.ndarray | None = None, signed: bool = False) -> None:
        png = picture(one.image, heat, signed=signed)
        if one.box:
            png = _with_box(png, one.box, one.image.shape[:2])
        wide = one.image.shape[1] > 2 * one.image.shape[0]
        broad = wide or one.image.ndim != 3  # curves, and slices next to each other
        shown.append(Picture(slug + end, title, caption, png, double=broad))

    more = " The box is what is explained." if one.box else " Its middle slices." if one.image.ndim == 4 else ""
    add("", "Input", "As the network sees it." + more)
    if one.region is not None:
        share = one.region.mean()
        text += "" if share else " No pixel is taken for it, so that there is nothing to explain."
        add(
            "_region", "What is explained", f"The pixels taken for {one.target}: {share:.1%}.", one.region.astype(float)
        )
    for name, found in one.maps.items():
        method = METHODS[name]
        add(f"_{name}", method.title, _caption(name, found, one), found.values, method.signed)
    for stage, values in one.stages.items():
        add(f"_{stage}", f"Class activation, {stage}", "Where this stage has evidence for it (LayerCAM).", values)
    if near:
        strip = _strip([each.image for each in near])
        told = "; ".join(f"{each.label} {each.similarity:.2f} ({_short(each.name)})".lstrip() for each in near)
        title = "Nearest training examples, by the features before the classifier"
        shown.append(Picture(f"{slug}_nearest", title, f"Cosine similarity, from the left: {told}", strip, True))
    tables = []
    if one.random[0].size:
        columns: dict[str, Any] = {"method": [METHODS[name].title for name in one.maps]}
        for way, label in ((0, "deletion"), (1, "insertion")):
            curves = [(found.deletion, found.insertion)[way] for found in one.maps.values()]
            columns[label] = np.array([area(curve[None])[0] for curve in curves])
            columns[f"{label} random"] = np.full(len(curves), area(one.random[way][None])[0])
        for step, part in enumerate(parts):
            columns[f"to {part}"] = np.array([found.similarity[step] for found in one.maps.values()])
        meaning = {
            "deletion": "area under the curve; small is good",
            "insertion": "area under the curve; large is good",
        }
        meaning[f"to {parts[0]}"] = "similarity of the map once all from the top down to this part is randomized"
        tables.append(Table("Checks of every map", columns, meaning))
    return Section(f"{_short(one.name)}: {one.target}", text, shown, tables)


def _with_box(png: bytes, box: Sequence[float], sides: Sequence[int]) -> bytes:
    """Draw a box, in pixels of an image of these sides, into a picture of the image."""
    import cv2

    shown = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    down, across = (shown.shape[axis] / sides[axis] for axis in (0, 1))
    top, left, bottom, right = (round(side * times) for side, times in zip(box, (down, across) * 2, strict=True))
    thick = max(2, shown.shape[0] // 120)
    for colour, width in (((0, 0, 0), thick + 2), ((255, 255, 255), thick)):
        cv2.rectangle(shown, (left, top), (right - 1, bottom - 1), colour, width)
    return encode_png(shown[..., ::-1])


def _caption(name: str, found: Map, one: Explained) -> str:
    lines = [METHODS[name].says[:1].upper() + METHODS[name].says[1:] + "."]
    if one.image.ndim == 4:
        lines.append("Slices through its largest value.")
    if one.box and name.startswith("grad_cam"):
        lines.append("Of a box it says little: one weight for all places. Class activation weighs every place.")
    if found.deletion.size:
        deleted, inserted = (area(curve[None])[0] for curve in (found.deletion, found.insertion))
        by_chance = [area(curve[None])[0] for curve in one.random]
        lines.append(
            f"Deletion {deleted:.2f} (random {by_chance[0]:.2f}), insertion {inserted:.2f} ({by_chance[1]:.2f})."
        )
        warning = ": it hardly depends on them" if found.similarity[-1] >= ALIKE else ""
        lines.append(f"Similarity with randomized weights {found.similarity[-1]:.2f}{warning}.")
    if found.completeness is not None and not math.isfinite(found.completeness):
        lines.append("Completeness: not known, for the sum is not finite.")
    elif found.completeness is not None:
        lines.append(f"Completeness: sum off by {found.completeness:.1%} after {found.steps} steps.")
    return "\n".join(lines)


def _reading(one: Explained) -> Section:
    """Return what the colors of the maps mean, as bars drawn like the maps."""
    signed = {METHODS[name].signed for name in one.maps} | ({False} if one.stages else set[bool]())
    titles = ", ".join(METHODS[name].title for name in one.maps if METHODS[name].signed)
    figure = new_figure((WIDTH, 0.4 + 0.75 * len(signed)))
    rows = figure.subplots(len(signed), 1, squeeze=False)[:, 0]
    for axes, kind in zip(rows, sorted(signed, reverse=True), strict=True):
        bar = scale_bar(signed=kind, curves=one.image.ndim == 2)
        axes.imshow(bar, aspect="auto", extent=(-1.0 if kind else 0.0, 1.0, 0.0, 1.0))
        plain(axes)
        axes.grid(visible=False)
        axes.set_yticks([])
        ticks = {-1.0: "most against", 0.0: "counts for nothing", 1.0: "most for"} if kind else {}
        ticks = ticks or {0.0: "counts for nothing", 1.0: "counts most"}
        axes.set_xticks(list(ticks), list(ticks.values()))
        sides = ("left", "center", "right") if kind else ("left", "right")
        for label, side in zip(axes.get_xticklabels(), sides, strict=True):
            label.set_horizontalalignment(side)
        axes.set_title(
            titles if kind else "all other maps" if len(signed) > 1 else "maps", fontsize=9, color=INK, loc="left"
        )
    caption = "The color of a place says how much it counts for the explained answer. Every map has a scale of its own."
    return Section("How to read the maps", figures=[DepthFigure("colors", "Colors of the maps", caption, figure)])


def _checks(found: Sequence[Explained], parts: Sequence[str]) -> Section:
    text = (
        "Two checks of every method, means over the images. A map that explains changes when weights are randomized "
        "(Adebayo et al. 2018): the similarity falls towards 0. And the score follows it: it falls early when the "
        "places that the map names are covered, and rises early when only these are shown (Petsiuk et al. 2018)."
    )
    names = list(found[0].maps)
    alike = {name: np.mean([one.maps[name].similarity for one in found], axis=0) for name in names}
    figure = new_figure((WIDTH, 3.4))
    axes = figure.subplots()
    for at, (name, values) in enumerate(alike.items()):
        axes.plot(range(len(parts)), values, label=METHODS[name].title, color=PALETTE[at], marker=_MARKERS[at])
    axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
    axes.set_xticks(range(len(parts)), [f"…{part}" if at else part for at, part in enumerate(parts)])
    axes.set_ylabel("rank correlation of the maps", color=INK)
    axes.set_xlabel("weights randomized from the head down to", color=INK)
    _finish(axes)
    caption = "Similarity of maps to those of the network with randomized weights: 1 the same, 0 nothing in common."
    figures = [DepthFigure("randomization", "Randomization check", caption, figure)]
    for way, label in ((0, "Deletion"), (1, "Insertion")):
        figure = new_figure((WIDTH, 3.4))
        axes = figure.subplots()
        steps = np.linspace(0, 1, found[0].random[way].size)
        for at, name in enumerate(names):
            curves = [(one.maps[name].deletion, one.maps[name].insertion)[way] for one in found]
            look = {"color": PALETTE[at], "marker": _MARKERS[at], "markersize": 4, "markevery": (at, 5)}
            axes.plot(steps, np.mean(curves, axis=0), label=METHODS[name].title, **look)
        by_chance = np.mean([one.random[way] for one in found], axis=0)
        axes.plot(steps, by_chance, color=GREY, linestyle="--", label="random order")
        axes.set_xlabel("share of the input " + ("covered" if way == 0 else "shown"), color=INK)
        measure = "probability of the explained answer" if found[0].measure == "probability" else found[0].measure
        axes.set_ylabel(measure, color=INK)
        _finish(axes)
        caption = (
            f"Mean {found[0].measure} as cells are {'covered' if way == 0 else 'shown'}, the most important first."
        )
        caption += " Lower is better." if way == 0 else " Higher is better."
        figures.append(DepthFigure(label.lower(), label, caption, figure))
    rows = _means(found)
    labels = ("deletion", "deletion random", "insertion", "insertion random", "similarity, all randomized")
    columns: dict[str, Any] = {"method": [row.title for row in rows]}
    columns |= {label: np.array([row[at] for row in rows]) for at, label in enumerate(labels, 1)}
    meaning = {"deletion": "mean area under the curve; small is good", "insertion": "the same; large is good"}
    return Section(
        "Can the maps be believed?", text, figures, [Table("Means of the checks", columns, meaning, unfolded=True)]
    )


def _finish(axes: Any) -> None:
    plain(axes)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.01), ncols=3, frameon=False, fontsize=8.5, labelcolor=INK,
        handlelength=1.6, columnspacing=1.0,
    )  # fmt: skip


def _strip(images: Sequence[np.ndarray]) -> bytes:
    """Return images next to each other, at the same height, as a PNG."""
    import cv2

    tall, parts = 128, []
    for image in images:
        shown = cv2.imdecode(np.frombuffer(picture(image, None), np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        wide = max(1, round(shown.shape[1] * tall / shown.shape[0]))
        parts.append(cv2.resize(shown[..., ::-1], (wide, tall), interpolation=cv2.INTER_AREA))
        parts.append(np.full((tall, 8, 3), 128, np.uint8))
    return encode_png(np.concatenate(parts[:-1], axis=1))


def _short(name: str) -> str:
    """Return the name of an example without folders: ``index 3 of some.npz``, ``cat.png``."""
    which, of, path = visible(name).rpartition(" of ")
    return f"{which}{of}{Path(path).name}"


def _number(number: float) -> str:
    return f"{number:.1%}" if 0 <= number <= 1 else f"{number:.4g}"


def _slug(name: str) -> str:
    stem = re.sub(r"\.(jpe?g|png|bmp|webp|tiff?|gif)$", "", Path(name).name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9-]+", "-", stem).strip("-").lower()[:60] or "image"


def _unused(name: str, used: set[str]) -> str:
    stem = _slug(name)
    slug = next(one for n in range(1, len(used) + 2) if (one := stem if n == 1 else f"{stem}-{n}") not in used)
    used.add(slug)
    return slug
