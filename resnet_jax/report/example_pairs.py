"""Examples beside what a network says of them: pixels, boxes, volumes, as pairs of a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from resnet_jax.data.example import MEANING_OF_RANK, Meaning
from resnet_jax.report.contact_sheet import Seen, Sheet, Shown, draw_sheet
from resnet_jax.report.example_axes import Style

#: Of the arrays that are kept: the names of the examples, and before the name of a field that the network says.
NAMES, SAID = "names", "said/"
#: A field of texts, which are written beneath.
CAPTION = "caption"


def draw_pairs(
    kept: Mapping[str, np.ndarray],
    path: Path,
    *,
    class_names: Sequence[str],
    meanings: Mapping[str, str],
    title: str,
    bands: tuple[int, ...] = (),
) -> None:
    """Draw examples, and beside each what is said of it.

    Args:
        kept: fields of the examples (n, ...), ``names`` of them, and under ``said/`` and the name of a field what is
            said of each.
        path: PNG to write.
        class_names: of pixels and boxes.
        meanings: of fields other than ``image``; see :data:`resnet_jax.data.example.Meaning`.
        title: of the picture.
        bands: channels that are drawn; see :class:`resnet_jax.report.example_axes.Style`.
    """
    images = kept["image"]
    said_fields = {name.removeprefix(SAID): values for name, values in kept.items() if name.startswith(SAID)}
    fields = {name: values for name, values in kept.items() if name != NAMES and not name.startswith(SAID)}
    known: dict[str, Meaning] = {name: cast(Meaning, meaning) for name, meaning in meanings.items()}
    known["image"] = MEANING_OF_RANK.get(images.ndim - 1, "array")
    low, high = 0.0, 255.0
    if images.dtype != np.uint8:
        low, high = (float(end) for end in np.percentile(images, (0.5, 99.5)))
    shown = []
    for row, name in enumerate(kept[NAMES].tolist()):
        true = {field: values[row] for field, values in fields.items()}
        said = {**true, **{field: values[row] for field, values in said_fields.items()}}
        captions = [str(one.pop(CAPTION, "")) for one in (true, said)]
        if set(said_fields) == {CAPTION}:  # there is nothing but words to tell: the example once
            shown.append(Shown(name, Seen(true, f"true: {captions[0]}\npredicted: {captions[1]}")))
            continue
        shown.append(Shown(name, Seen(true, captions[0]), Seen(said, captions[1])))
    lines = (f"{len(shown)} test examples: what they are, and what the network predicts",)
    style = Style(class_names, known, low, high if high > low else low + 1, bands=bands)
    draw_sheet(Sheet(title, lines, shown, style, ("true", "predicted")), path)
