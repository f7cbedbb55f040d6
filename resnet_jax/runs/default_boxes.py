"""Defaults for images with boxes: nothing is cropped, and the network is a detector."""

from __future__ import annotations

from typing import Any

from resnet_jax.data.look import Findings
from resnet_jax.runs.default_augment import mirrored

LONGER_SIDE, LONGER_SIDE_ON_CPU = 640, 320
"""Maximum length in pixels of the longer side of resized images."""
MULTIPLE = 16
"""The sides of resized images are multiples of this."""


def box_size(found: Findings, cores: int) -> tuple[list[int] | None, str]:
    """Return ``data.resize`` and the reason: the median aspect ratio, and a side that this machine can afford.

    Args:
        found: the data.
        cores: number of CPU cores; 0 for accelerators.
    """
    most = LONGER_SIDE_ON_CPU if cores else LONGER_SIDE
    ratios = sorted(shape[0] / max(shape[1], 1) for shape in found.shapes)
    ratio = ratios[len(ratios) // 2]
    longer = sorted(max(shape[:2]) for shape in found.shapes)[len(found.shapes) // 2]
    if found.one_size and longer <= most:
        return None, "all are of one size, and boxes are found in all of an image"
    side = min(longer, most)
    sides = (side, side / ratio) if ratio >= 1 else (side * ratio, side)
    resize = [max(round(one / MULTIPLE), 1) * MULTIPLE for one in sides]
    at_most = f"at most {most} pixels{' on a CPU' if cores else ''}; " if longer > most else ""
    return resize, f"{at_most}all of an image, for boxes may lie at its border"


def box_network(cores: int) -> dict[str, tuple[Any, str]]:
    """Return the changes to the network."""
    rules: dict[str, tuple[Any, str]] = {"model.head": ("fcos", "boxes at every place of a feature pyramid")}
    if cores:
        rules |= {"model.head_width": (64, "half of what is usual, on a CPU"), "model.head_depth": (2, "")}
    return rules


def box_augment(found: Findings) -> tuple[list[str], str]:
    """Return ``data.augment`` and the reason."""
    turned, why = mirrored(found, found.side[0])
    moved = "random_affine(translate=0.1, low=0.8, high=1.25, interpolation='bilinear')"
    return [*(["flip"] if turned else []), moved], f"{why}; moved and enlarged, boxes with it"
