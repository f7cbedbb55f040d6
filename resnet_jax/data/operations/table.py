"""The operations on images, one row each: what single transforms and the policies are made of, on host and device.

An operation has one of four forms, so that a policy on the device computes each form once and not each operation:

======== ==================================================================================
lookup   a table of 256 values a channel, of the image's counts and the magnitude
blend    ``degenerate + magnitude (image - degenerate)``, the degenerate image of the image
affine   a map of where each pixel comes from, of the image's size and the magnitude
whole    the image of the image and the magnitude
======== ==================================================================================
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
    """One operation on images of 8 bits a channel.

    Attributes:
        name: by which it is written.
        form: how it is computed.
        function: of lookup ``(counts, magnitude)``, of blend ``(xp, image)``, of affine ``(xp, height, width,
            magnitude)``, of whole ``(xp, image, magnitude)``.
        magnitude: what its magnitude is, in words; empty: it has none.
        low: the least magnitude it can have.
        high: the largest.
        neutral: the magnitude at which it does nothing, if there is one.
    """

    name: str
    form: Form
    function: Callable[..., Any]
    magnitude: str = ""
    low: float = 0.0
    high: float = 0.0
    neutral: float | None = None

    @property
    def doc(self) -> str:
        """What it does, a line."""
        return (self.function.__doc__ or "").strip().split("\n")[0]

    @property
    def exactness(self) -> str:
        """How close it is to the definition, that of Pillow 13 and torchvision 0.29 on Pillow images."""
        return "within one level on 99.9 % of pixels" if self.form == "affine" else "exact"


def _grey(xp: Any, image: Any, _: Any) -> Any:
    """The image in grey, in all its channels."""
    return colour.greyed(xp, image).astype(xp.uint8)


_FACTOR = "factor; 1 leaves the image"
_ROWS = (
    Operation("identity", "lookup", colour.identity),
    Operation("brightness", "lookup", colour.brightness, _FACTOR, 0.0, 16.0, 1.0),
    Operation("contrast", "lookup", colour.contrast, _FACTOR, 0.0, 16.0, 1.0),
    Operation("saturation", "blend", colour.greyed, _FACTOR, 0.0, 16.0, 1.0),
    Operation("sharpness", "blend", colour.smoothed, _FACTOR, 0.0, 16.0, 1.0),
    Operation("posterize", "lookup", colour.posterize, "bits kept", 0.0, 8.0, 8.0),
    Operation("solarize", "lookup", colour.solarize, "threshold", 0.0, 256.0, 256.0),
    Operation("solarize_add", "lookup", colour.solarize_add, "added", -255.0, 255.0, 0.0),
    Operation("autocontrast", "lookup", colour.autocontrast),
    Operation("equalize", "lookup", colour.equalize),
    Operation("invert", "lookup", colour.invert),
    Operation("grey", "whole", _grey),
    Operation("hue", "whole", hue.turned, "share of the circle", -0.5, 0.5, 0.0),
    Operation("shear_x", "affine", affine.shear_x, "tangent of the angle", -4.0, 4.0, 0.0),
    Operation("shear_y", "affine", affine.shear_y, "tangent of the angle", -4.0, 4.0, 0.0),
    Operation("translate_x", "affine", affine.translate_x, "pixels", -16384.0, 16384.0, 0.0),
    Operation("translate_y", "affine", affine.translate_y, "pixels", -16384.0, 16384.0, 0.0),
    Operation("translate_x_rel", "affine", affine.translate_x_rel, "share of the width", -1.0, 1.0, 0.0),
    Operation("translate_y_rel", "affine", affine.translate_y_rel, "share of the height", -1.0, 1.0, 0.0),
    Operation("rotate", "affine", affine.rotate, "degrees, counter-clockwise", -360.0, 360.0, 0.0),
    Operation("scale", "affine", affine.scale, _FACTOR, 0.1, 10.0, 1.0),
)

#: Name -> operation.
OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}


def operation_of(name: str) -> Operation:
    """Return an operation by its name.

    Raises:
        UsageError: there is none; with those that there are.
    """
    if name not in OPERATIONS:
        raise unknown("operation", name, list(OPERATIONS))
    return OPERATIONS[name]
