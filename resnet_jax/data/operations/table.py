"""The image operations, one row each, from which single transforms and policies are made, on host and device.

An operation has one of four forms, so that a policy on the device computes each form once instead of each operation:

======  ======================================================================================================
lookup  a table of 256 values per channel, computed from the image's histogram and the magnitude
blend   ``degenerate + magnitude (image - degenerate)``, where the degenerate image is computed from the image
affine  a map that gives the origin of each pixel, computed from the image's size and the magnitude
whole   the result computed from the image and the magnitude
======  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from resnet_jax.data.operations import affine, colour, hue
from resnet_jax.errors import unknown

Form = Literal["lookup", "blend", "affine", "whole"]


@dataclass(frozen=True)
class Operation:
    """One operation on images with 8 bits per channel.

    Attributes:
        name: its name in text.
        form: how it is computed.
        does: what it does, in one sentence.
        function: for lookup ``(counts, magnitude)``, for blend ``(xp, image)``, for affine ``(xp, height, width,
            magnitude)``, for whole ``(xp, image, magnitude)``.
        magnitude: what its magnitude is, in words; empty if it has none.
        low: smallest magnitude.
        high: largest magnitude.
        neutral: the magnitude at which it does nothing, if there is one.
        whole: whether its magnitudes are integers.
    """

    name: str
    form: Form
    does: str
    function: Callable[..., Any]
    magnitude: str = ""
    low: float = 0.0
    high: float = 0.0
    neutral: float | None = None
    whole: bool = False

    @property
    def exactness(self) -> str:
        """How closely it matches the definition, that of Pillow 13 and of torchvision 0.29 on Pillow images."""
        return "within one level on 99.9 % of pixels" if self.form == "affine" else "exact"


def _grey(xp: Any, image: Any, _: Any) -> Any:
    """Return the image in gray, in all its channels."""
    return colour.greyed(xp, image).astype(xp.uint8)


_FACTOR = "factor; 1 changes nothing"
_ROWS = (
    Operation("identity", "lookup", "Nothing.", colour.identity),
    Operation("brightness", "lookup", "Blends with black.", colour.brightness, _FACTOR, 0.0, 16.0, 1.0),
    Operation("contrast", "lookup", "Blends with the image's mean gray.", colour.contrast, _FACTOR, 0.0, 16.0, 1.0),
    Operation("saturation", "blend", "Blends with the gray image.", colour.greyed, _FACTOR, 0.0, 16.0, 1.0),
    Operation(
        "sharpness",
        "blend",
        "Blends with the image smoothed over 3 x 3 pixels.",
        colour.smoothed,
        _FACTOR,
        0.0,
        16.0,
        1.0,
    ),
    Operation(
        "posterize",
        "lookup",
        "Keeps the upper bits of each value.",
        colour.posterize,
        "bits to keep",
        0.0,
        8.0,
        8.0,
        True,
    ),
    Operation(
        "solarize",
        "lookup",
        "Inverts values at or above a threshold.",
        colour.solarize,
        "threshold",
        0.0,
        256.0,
        256.0,
    ),
    Operation(
        "solarize_add",
        "lookup",
        "Adds a number to values below 128.",
        colour.solarize_add,
        "number to add",
        -255.0,
        255.0,
        0.0,
    ),
    Operation("autocontrast", "lookup", "Stretches each channel to 0 .. 255.", colour.autocontrast),
    Operation("equalize", "lookup", "Makes each channel's values equally frequent.", colour.equalize),
    Operation("invert", "lookup", "Replaces each value by 255 minus the value.", colour.invert),
    Operation("grey", "whole", "Converts to gray in all channels (RandomGrayscale: probability 0.1).", _grey),
    Operation("hue", "whole", "Rotates the hue.", hue.turned, "fraction of the circle", -0.5, 0.5, 0.0),
    Operation(
        "shear_x",
        "affine",
        "Shears rows to the left, more so further down.",
        affine.shear_x,
        "tangent of the angle",
        -4.0,
        4.0,
        0.0,
    ),
    Operation(
        "shear_y",
        "affine",
        "Shears columns upwards, more so further right.",
        affine.shear_y,
        "tangent of the angle",
        -4.0,
        4.0,
        0.0,
    ),
    Operation(
        "translate_x", "affine", "Translates to the right.", affine.translate_x, "pixels", -16384.0, 16384.0, 0.0
    ),
    Operation("translate_y", "affine", "Translates downwards.", affine.translate_y, "pixels", -16384.0, 16384.0, 0.0),
    Operation(
        "translate_x_rel",
        "affine",
        "Translates to the right, relative to the width.",
        affine.translate_x_rel,
        "fraction of the width",
        -1.0,
        1.0,
        0.0,
    ),
    Operation(
        "translate_y_rel",
        "affine",
        "Translates downwards, relative to the height.",
        affine.translate_y_rel,
        "fraction of the height",
        -1.0,
        1.0,
        0.0,
    ),
    Operation(
        "rotate", "affine", "Rotates about the center.", affine.rotate, "degrees, counter-clockwise", -360.0, 360.0, 0.0
    ),
    Operation("scale", "affine", "Scales about the center.", affine.scale, _FACTOR, 0.1, 10.0, 1.0),
)

#: Name -> operation.
OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}


def operation_of(name: str) -> Operation:
    """Return an operation by its name.

    Raises:
        UsageError: if there is none; the message lists those there are.
    """
    if name not in OPERATIONS:
        raise unknown("operation", name, list(OPERATIONS))
    return OPERATIONS[name]
