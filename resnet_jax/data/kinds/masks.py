"""``masks:PATH``: images with a class for every pixel, in folders of images and masks; see `mask_pairs` for layouts.

**Values.** A mask stores a number for every pixel: for a palette PNG its number, not its color. 255 is no class, and
neither is ``data.void_value``; the other values are the classes in order, so that with ``data.void_value 0`` value 1 is
the first class. Masks that contain only 0 and 255 have two classes, and 255 is the second. Colors, including those of a
palette, become classes by a table beside the folders (``class_dict.csv``, ``label_colors.txt``, ...: `mask_colours`),
line by line.

**Classes** are named by ``data.class_list``, one name per class; with a table of colors, the list selects and orders
its classes, and the rest is ignored. Without a list, they are those of the table, or the numbers up to the largest one
that occurs (counted once over all masks, and stored). A value beyond the list is an error that names the mask, and so
is a mask of a different size than its image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnet_jax.data.example import Example, Field, Spec
from resnet_jax.data.kinds.class_files import read_class_list
from resnet_jax.data.kinds.files import read_bytes, read_image, wanted_channels
from resnet_jax.data.kinds.mask_colours import Colours, find_colours
from resnet_jax.data.kinds.mask_file import read_mask_file
from resnet_jax.data.kinds.mask_index import ValueCount, count_values
from resnet_jax.data.kinds.mask_pairs import Pairs, find_pairs
from resnet_jax.data.layout import shortened
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError

NONE = 255
"""Class of a pixel without a class."""
SAMPLE = 32
"""Number of masks that are examined to see whether they contain colors."""
_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class MaskRecords:
    """Image files with one mask file each; both are read on access.

    Attributes:
        paths: N images.
        masks: N masks.
        table: int16, value of a mask -> class; 255 for none, -1 for an invalid value.
        colours: the table of colors for color masks; otherwise None.
        channels: as for image files.
        pixels: as for image files.
        values: how often each value occurs.
    """

    paths: tuple[str, ...]
    masks: tuple[str, ...]
    table: np.ndarray
    colours: Colours | None = None
    channels: int = 3
    pixels: str = "uint8"
    values: Mapping[int, ValueCount] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labels(self) -> np.ndarray:
        """Zeros, int32 (N,): an image as a whole has no class."""
        return np.zeros(len(self.paths), np.int32)

    @property
    def spec(self) -> Spec:
        dtype, channels = "uint8", self.channels
        if self.pixels == "stored":
            first = read_image(self.paths[0], self.channels, self.pixels)
            dtype, channels = first.dtype.name, first.shape[-1]
        return {
            "image": Field((None, None, channels), dtype, "image"),
            "segmentation": Field((None, None), "uint8", "mask"),
            "label": Field((), "int32", "label"),
        }

    def __getitem__(self, index: int, /) -> Example:
        path, mask = self.paths[index], self.masks[index]
        image = read_image(path, self.channels, self.pixels)
        values = read_values(mask, self.colours)
        if values.shape != image.shape[:2]:
            raise DataError(
                f"{mask} is {values.shape[0]} x {values.shape[1]} (height x width) but its image {path} "
                f"{image.shape[0]} x {image.shape[1]}: both must have one size"
            )
        known = values < len(self.table)
        classes = self.table[np.where(known, values, 0)]
        if not known.all() or (classes == _UNKNOWN).any():
            wrong = values[~known | (classes == _UNKNOWN)]
            raise DataError(f"{mask}: value {wrong[0]} in {len(wrong):,} pixels, which is no class")
        return {"image": image, "segmentation": classes.astype(np.uint8), "label": np.zeros((), np.int32)}

    def encoded(self, index: int) -> bytes:
        """Return the bytes of image file ``index``."""
        return read_bytes(self.paths[index])

    def describe(self, index: int) -> str:
        return self.paths[index]


def read_values(path: str, colours: Colours | None) -> np.ndarray:
    """Return the value of every pixel of a mask; for colors, their lines in the table.

    Raises:
        DataError: for colors without a table, or that are not in it.
    """
    values = read_mask_file(path, shown=colours is not None)
    if values.ndim == 2:
        return values if colours is None else colours.values(np.repeat(values[..., None], 3, axis=-1), path)
    if colours is None:
        raise DataError(
            f"{path}: a mask of colours, and no table beside the folders says which is which class: write "
            "class_dict.csv there, a line name,r,g,b for every class"
        )
    return colours.values(values, path)


@register_source("masks", form="masks:PATH", uses=("class_list", "void_value"))
def load_masks(path: str, reading: Reading, /) -> Dataset:
    """Find the masks of all images, and count their values once.

    Raises:
        DataError: for another layout, an image or mask without its partner, or a value that cannot be a class.
    """
    root = Path(path).expanduser()
    return mask_dataset(f"masks:{path}", find_pairs(root), reading, find_colours(root))


def mask_dataset(
    name: str,
    pairs: dict[str, Pairs],
    reading: Reading,
    colours: Colours | None,
    usual: Callable[[int], tuple[str, ...] | None] = lambda largest: None,
) -> Dataset:
    """Return a data set of images and masks.

    Args:
        name: name of the source.
        pairs: split -> image and mask of every example.
        reading: how it is read.
        colours: a table of colors beside the masks, if any.
        usual: default names of classes, given the largest value other than 255.

    Raises:
        DataError: for a mask that cannot be read, or a value that cannot be a class.
    """
    names_of_table = colours.names if colours is not None else None
    if colours is not None and not _is_coloured([mask for found in pairs.values() for _, mask in found]):
        colours = None  # numbers: the table says their names only
    read = functools.partial(read_values, colours=colours)
    how = "" if colours is None else f"{colours.names} {colours.codes.tolist()}"
    counts = {split: count_values([mask for _, mask in found], read, how) for split, found in pairs.items()}
    values = sorted({value for found in counts.values() for value in found})
    classes = [value for value in values if value not in (NONE, reading.void_value)]
    notes: tuple[str, ...] = ()
    listed = None if reading.class_list is None else read_class_list(reading.class_list)
    if colours is None and values == [0, NONE] and reading.void_value is None and len(listed or "ab") == 2:
        notes = ("masks hold 0 and 255 only: 255 is the second class here, not 'no class'",)
        table, names = np.full(256, _UNKNOWN, np.int16), listed or ("0", "1")
        table[[0, NONE]] = 0, 1
    elif colours is not None:
        table, names, said = _table_of_colours(colours, listed, reading.void_value)
        notes = said
    else:
        largest = classes[-1] if classes else 0
        if listed is None and names_of_table is not None and len(names_of_table) > largest:
            names = tuple(name for value, name in enumerate(names_of_table) if value != reading.void_value)
        else:
            names = (
                listed
                or usual(largest)
                or tuple(str(value) for value in range(largest + 1) if value != reading.void_value)
            )
        table = _table_of_numbers(len(names), reading.void_value)
    _check_values(counts, pairs, table, names)
    splits = {
        split: MaskRecords(
            tuple(image for image, _ in found),
            tuple(mask for _, mask in found),
            table,
            colours,
            wanted_channels(reading.channels, reading.pixels),
            reading.pixels,
            counts[split],
        )
        for split, found in pairs.items()
    }
    return Dataset(
        name, splits, names, (*notes, *_notes(counts, table, names)), {}, reading.least_classes, "segmentation"
    )


def _is_coloured(masks: list[str]) -> bool:
    """Return whether masks contain colors, judging by a few of them: a single one may be all black."""
    chosen = masks[:: max(1, len(masks) // SAMPLE)]
    return any(read_mask_file(mask, shown=True).ndim == 3 for mask in chosen)


def _table_of_numbers(count: int, void: int | None) -> np.ndarray:
    """Return value -> class: the values except 255 and ``void``, in order."""
    if count > NONE:
        raise DataError(f"{count:,} classes; masks of up to {NONE} are read, for {NONE} stands for none")
    values = [value for value in range(count + 2) if value not in (NONE, void)][:count]
    table = np.full(max(NONE, *values) + 1, _UNKNOWN, np.int16)
    table[values] = np.arange(count)
    table[NONE] = NONE
    if void is not None and void < len(table):
        table[void] = NONE
    return table


def _table_of_colours(
    colours: Colours, listed: tuple[str, ...] | None, void: int | None
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Return line -> class, the names of the classes, and notes."""
    kept = listed or tuple(name for line, name in enumerate(colours.names) if line != void)
    strange = [name for name in kept if name not in colours.names]
    if strange:
        raise DataError(f"{colours.file}: no colour of {shortened(strange)}, which data.class_list names")
    table = np.full(256, NONE, np.int16)
    for label, name in enumerate(kept):
        table[colours.names.index(name)] = label
    nowhere = [name for name in colours.names if name not in kept]
    notes = (f"colours that count nowhere: {shortened(nowhere)}",) if nowhere else ()
    return table, kept, notes


def _check_values(
    counts: Mapping[str, Mapping[int, ValueCount]],
    pairs: Mapping[str, Pairs],
    table: np.ndarray,
    names: tuple[str, ...],
) -> None:
    for split, found in counts.items():
        for value, count in found.items():
            if value >= len(table) or table[value] == _UNKNOWN:
                raise DataError(
                    f"{pairs[split][count.first][1]}: value {value} is none of the {len(names)} classes; "
                    f"{count.masks:,} masks hold it in {count.pixels:,} pixels: data.void_value {value} if it is no "
                    "class, or a longer data.class_list"
                )


def _notes(
    counts: Mapping[str, Mapping[int, ValueCount]], table: np.ndarray, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Return notes on classes that never occur, and on pixels without a class."""
    pixels, void, total = np.zeros(len(names), np.int64), 0, 0
    for found in counts.values():
        for value, count in found.items():
            total += count.pixels
            if table[value] == NONE:
                void += count.pixels
            else:
                pixels[table[value]] += count.pixels
    never = [name for name, count in zip(names, pixels, strict=True) if not count]
    notes = (f"{void / total:.1%} of all pixels have no class",) if void else ()
    if never:
        notes = (*notes, f"{len(never)} of {len(names)} classes occur in no mask: {shortened(never)}")
    return notes
