"""Which color of a mask is which class: a small table beside the masks, in any of the common forms.

Each line has a name and three numbers, in any order: ``name,r,g,b`` (``class_dict.csv``), ``64 128 64 Animal``
(CamVid's ``label_colors.txt``), ``background:0,0,0::`` (CVAT's ``labelmap.txt``). The first line may be a header; if
there are four numbers in a row, the first is an index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_jax.data.kinds.files import read_text
from resnet_jax.errors import DataError

FILES = (
    "classes.csv",
    "class_dict.csv",
    "class_colors.csv",
    "label_colors.txt",
    "label_colors.csv",
    "labelmap.txt",
    "colors.txt",
)
MAX_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Colours:
    """A table of colors.

    Attributes:
        file: the file it comes from.
        names: names of the classes, in the order of the lines.
        codes: int32 (K,), the color of each as r * 65536 + g * 256 + b.
    """

    file: str
    names: tuple[str, ...]
    codes: np.ndarray

    def values(self, colours: np.ndarray, where: str) -> np.ndarray:
        """Return the 0-based line of every pixel's color.

        Args:
            colours: uint8 RGB (H, W, 3).
            where: the mask, for messages.

        Raises:
            DataError: for a color that is not in the table.
        """
        codes = codes_of(colours)
        order = np.argsort(self.codes)
        place = np.minimum(np.searchsorted(self.codes[order], codes), len(order) - 1)
        lines = order[place]
        strange = self.codes[lines] != codes
        if strange.any():
            at = tuple(int(i) for i in np.argwhere(strange)[0])
            red, green, blue = colours[at]
            raise DataError(
                f"{where}: {int(strange.sum()):,} pixels have colours that {self.file} does not list, such as "
                f"({red}, {green}, {blue}) at row {at[0]}, column {at[1]}"
            )
        return lines.astype(np.uint8)


def codes_of(colours: np.ndarray) -> np.ndarray:
    """Return uint8 RGB (..., 3) as one number each."""
    wide = colours.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def find_colours(folder: Path) -> Colours | None:
    """Return the table of colors in a folder; None if there is none.

    Raises:
        DataError: for a table that cannot be read.
    """
    for name in FILES:
        if (folder / name).is_file():
            return read_colours(folder / name)
    return None


def read_colours(file: Path) -> Colours:
    """Read a table of colors.

    Raises:
        DataError: for a line without a name or three numbers up to 255, or a repeated name or color.
    """
    names: list[str] = []
    codes: list[int] = []
    lines = read_text(file, MAX_BYTES).splitlines()
    for number, line in enumerate(lines, 1):
        found = _parsed(line)
        if found is None:
            if line.strip() and not line.lstrip().startswith("#") and number > 1:
                raise DataError(f"{file}, line {number}: {line[:60]!r}; need a name and red, green, blue, 0 to 255")
            continue
        name, (red, green, blue) = found
        code = red << 16 | green << 8 | blue
        if name in names or code in codes:
            what = f"the name {name!r}" if name in names else f"the colour ({red}, {green}, {blue})"
            raise DataError(f"{file}, line {number}: {what} stands in it already")
        names.append(name)
        codes.append(code)
    if not names or len(names) > 255:
        raise DataError(f"{file}: {len(names)} classes; a table of colours has 1 to 255 lines of a name and r, g, b")
    return Colours(str(file), tuple(names), np.array(codes, np.int32))


def _parsed(line: str) -> tuple[str, tuple[int, int, int]] | None:
    """Return the name and color of a line, or None."""
    words = [word for word in re.split(r"[,;:\s]+", line.strip().strip('"')) if word]
    for end in range(len(words), 2, -1):  # the last three numbers in a row
        triple = words[end - 3 : end]
        if all(word.isdecimal() and int(word) <= 255 for word in triple):
            before = words[: end - 3]
            if before and before[0].isdecimal():
                before = before[1:]
            name = " ".join([*before, *words[end:]])
            red, green, blue = (int(word) for word in triple)
            return (name, (red, green, blue)) if name else None
    return None
