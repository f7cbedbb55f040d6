"""Default transforms of training images for data without a recipe: only those that surely preserve the class."""

from __future__ import annotations

import re
from collections.abc import Sequence

from resnet_jax.data.augmentations.flip import AlternatingFlip, Flip
from resnet_jax.data.look import Findings
from resnet_jax.errors import UsageError

SMALL = 64
"""Shorter side in pixels up to which images count as small: networks of stride 4, and crops of padded images."""
TURNED = re.compile(r"left|right|sign|letter|digit|number|text|arrow|clock|east|west|speed", re.IGNORECASE)
"""Class names that suggest that mirroring may change the class."""


def usual_augment(found: Findings, shape: tuple[int, ...], resized: bool) -> tuple[list[str], str]:
    """Return ``data.augment``, the transforms of the training images, and the reason for them.

    Args:
        found: the data.
        shape: the shape that the network sees.
        resized: whether images are resized to it.
    """
    if found.meaning != "image" or len(shape) != 3:
        return [], f"no transform is known to be safe for every {found.meaning}"
    side, transforms, reasons = min(shape[:2]), [], []
    photographs = resized and side > SMALL and found.channels == 3 and not found.grey
    if photographs:
        transforms.append("random_resized_crop")
        reasons.append("photographs: any part")
    elif side >= 8:
        transforms.append(f"random_crop({max(side // 8, 1)})")
        reasons.append("shifted by up to an eighth")
    kept, why = mirrored(found, side)
    return [*transforms, *(["flip"] if kept else [])], "; ".join([*reasons, why])


def mirrored(found: Findings, side: int) -> tuple[bool, str]:
    """Return whether mirroring preserves the class of an image, and the reason."""
    if found.grey or found.channels != 3:
        return False, "gray images are not mirrored: they may be writing" if found.grey else "bands are not mirrored"
    if side <= 16:
        return False, "not mirrored, because they are tiny"
    if found.label_kind == "value":
        return False, "not mirrored: the values may depend on the side"
    if any(TURNED.search(name) or len(name) == 1 for name in found.names):
        return False, "not mirrored: the classes are named after digits, letters or sides"
    if all(name.isdecimal() for name in found.names):
        return False, "not mirrored: classes without names may be signs"
    return True, "mirrored"


def require_mirrors_keep_classes(transforms: Sequence[object], names: Sequence[str], rank: int) -> None:
    """Reject mirroring that turns one class into another, such as a left kidney into a right one.

    Args:
        transforms: transforms of the training examples.
        names: names of the classes.
        rank: number of axes of an input, including channels: images are mirrored along their width, volumes along any
            axis.

    Raises:
        UsageError: if there are such classes; it names two of them.
    """
    mirrors = [one for one in transforms if isinstance(one, Flip | AlternatingFlip)]
    if not any(rank > 3 or -1 in getattr(one, "axes", (-1,)) for one in mirrors):
        return
    for name in names:
        other = re.sub("left|right", _other_side, name, flags=re.IGNORECASE)
        if other != name and other in names:
            raise UsageError(
                f"data.augment has a flip, which makes an example of class {name} one of {other}: leave it out, or put "
                "the two into one class"
            )


def _other_side(found: re.Match[str]) -> str:
    """Return the word for the other side, in the same letter case.

    >>> re.sub("left|right", _other_side, "Left_kidney", flags=re.IGNORECASE)
    'Right_kidney'
    """
    word = found[0]
    other = "right" if word.lower() == "left" else "left"
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
