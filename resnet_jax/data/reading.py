"""How a source is read: what of it is wanted, and what it does not say itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pixels = Literal["uint8", "stored"]
Orientation = Literal["stored", "exif"]

#: Fields that only some kinds of sources use, which name them when they are registered.
OPTIONAL = ("orientation", "class_pattern", "class_list", "signal_length", "void_value")


@dataclass(frozen=True)
class Reading:
    """How a source is read. A field of ``OPTIONAL`` that a kind of source does not use is refused, not ignored.

    Attributes:
        channels: 1 for grey, 3 for RGB, None for what is stored (RGB for image files).
        least_classes: 2 to train on, which has to tell classes apart; 1 for images to evaluate a network on.
        pixels: ``uint8``, or ``stored`` to decode image files without loss to what they hold (16 bits, for one).
        orientation: ``stored`` for pixels as they lie in image files, ``exif`` for images turned upright by their tag.
        class_pattern: a regular expression with one group, which finds the class in a file's path below the folder.
        class_list: a file of class names, one a line, in label order; ImageNet's lists of synsets may add a name.
        signal_length: samples that signals are cut or padded to; None for the longest.
        void_value: value of masks that stands for no class, besides 255.
        skip_unreadable: whether images that cannot be read are skipped, so that listing them is no reason to stop.
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
