"""How a source is read: what is wanted from it, and what it does not contain itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pixels = Literal["uint8", "stored"]
Orientation = Literal["stored", "exif"]

#: Fields that only some kinds of sources use, which declare them when they are registered.
OPTIONAL = ("orientation", "class_pattern", "class_list", "signal_length", "void_value")


@dataclass(frozen=True)
class Reading:
    """How a source is read. A field of ``OPTIONAL`` that a kind of source does not use is rejected, not ignored.

    Attributes:
        channels: 1 for gray, 3 for RGB, None for the stored channels (RGB for image files).
        least_classes: 2 for training, which must distinguish classes; 1 for images to evaluate a network on.
        pixels: ``uint8``, or ``stored`` to decode image files without loss (16 bits, for example).
        orientation: ``stored`` for pixels as stored in image files, ``exif`` for images rotated upright by their tag.
        class_pattern: a regular expression with one group, which finds the class in a file's path below the folder.
        class_list: a file of class names, one per line, in label order; as in ImageNet's lists of synsets, a name may
            follow.
        signal_length: number of samples that signals are cut or padded to; None for the longest.
        void_value: mask value that stands for no class, besides 255.
        skip_unreadable: whether unreadable images are skipped, so that they do not stop the listing.
    """

    channels: int | None = None
    least_classes: int = 2
    pixels: Pixels = "uint8"
    orientation: Orientation = "stored"
    class_pattern: str | None = None
    class_list: str | None = None
    signal_length: int | None = None
    void_value: int | None = None
    skip_unreadable: bool = False
