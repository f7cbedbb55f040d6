"""One operation on an example, or one of several: the host computes only the chosen one, the device each form once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnet_jax.data.example import Spec
from resnet_jax.data.operations import affine, colour
from resnet_jax.data.operations.affine import Interpolation, Map
from resnet_jax.data.operations.fields import Fields, mapped
from resnet_jax.data.operations.table import Form, Operation

Array = Any


@dataclass(frozen=True)
class Drawing:
    """How an image is resampled under a map.

    Attributes:
        interpolation: interpolation of images; masks always use the nearest pixel.
        fill: value beyond the border, in 0 .. 255: a number, or one per channel.
    """

    interpolation: Interpolation = "nearest"
    fill: float | tuple[float, ...] = 0


def apply_operation(
    xp: Any, fields: Fields, spec: Spec, operation: Operation, magnitude: Any, drawing: Drawing | None = None
) -> dict[str, Array]:
    """Return an example after one operation.

    Args:
        xp: numpy or jax.numpy.
        fields: fields of one example; its image is uint8 (height, width, channels).
        spec: the meaning of the fields.
        operation: a row of the table.
        magnitude: a number; ignored if the operation has none.
        drawing: how maps are resampled.

    >>> from resnet_jax.data.operations.table import OPERATIONS
    >>> image = np.array([[[0], [100], [255]]], np.uint8)
    >>> apply_operation(np, {"image": image}, {}, OPERATIONS["invert"], 0)["image"].ravel().tolist()
    [255, 155, 0]
    """
    image = fields["image"]
    match operation.form:
        case "lookup":
            counts = colour.Counts(xp, image)
            return {**fields, "image": colour.looked_up(xp, image, operation.function(counts, magnitude))}
        case "blend":
            blended = colour.blend(xp, operation.function(xp, image), image, magnitude)
            return {**fields, "image": blended.astype(xp.uint8)}
        case "whole":
            return {**fields, "image": operation.function(xp, image, magnitude)}
        case "affine":
            transform = operation.function(xp, *image.shape[:2], magnitude)
            return _mapped(xp, fields, spec, transform, drawing or Drawing())


def apply_chosen(
    xp: Any,
    fields: Fields,
    spec: Spec,
    operations: Sequence[Operation],
    which: Any,
    magnitude: Any,
    drawing: Drawing | None = None,
) -> dict[str, Array]:
    """Return an example after operation number ``which``.

    On the device that number is unknown when the step is compiled. Instead of every operation, each form is computed
    once: the lookup tables of all operations, which are small, and a lookup in the chosen one; the maps of all, and a
    resampling with the chosen one; and one blend. Forms that were not chosen act as the identity.

    Args:
        xp: numpy or jax.numpy.
        fields: fields of one example; its image is uint8 (height, width, channels).
        spec: the meaning of the fields.
        operations: the operations to choose from; each of the form ``whole`` is computed.
        which: index of the chosen one.
        magnitude: its magnitude.
        drawing: how maps are resampled.
    """
    if xp is np:
        return apply_operation(np, fields, spec, operations[int(which)], magnitude, drawing)
    found, image = dict(fields), fields["image"]
    blends, lookups = _of(operations, "blend"), _of(operations, "lookup")
    if blends:
        degenerate = image.astype(xp.int32)
        for place in blends:
            chosen = which == place
            degenerate = xp.where(chosen, operations[place].function(xp, image), degenerate)
        # an image blended with itself is unchanged
        found["image"] = colour.blend(xp, degenerate, image, magnitude).astype(xp.uint8)
    if lookups:
        counts = colour.Counts(xp, image)
        table = colour.identity(counts, magnitude)
        for place in lookups:
            table = xp.where(which == place, operations[place].function(counts, magnitude), table)
        found["image"] = colour.looked_up(xp, found["image"], table)
    for place in _of(operations, "whole"):
        changed = operations[place].function(xp, image, magnitude)
        found["image"] = xp.where(which == place, changed, found["image"])
    maps = _of(operations, "affine")
    if maps:
        height, width = image.shape[:2]
        transform = tuple(xp.asarray(value, xp.float32) for value in affine.identity(xp, height, width, 0.0))
        for place in maps:
            drawn = operations[place].function(xp, height, width, magnitude)
            transform = tuple(xp.where(which == place, new, old) for new, old in zip(drawn, transform, strict=True))
        found = _mapped(xp, found, spec, transform, drawing or Drawing())  # pyright: ignore[reportArgumentType]
    return found


def _mapped(xp: Any, fields: Fields, spec: Spec, transform: Map, drawing: Drawing) -> dict[str, Array]:
    if xp is np and affine.is_identity(transform):
        return dict(fields)
    fill = np.asarray(drawing.fill)
    return mapped(xp, fields, spec, transform, fill=fill, interpolation=drawing.interpolation)


def _of(operations: Sequence[Operation], form: Form) -> list[int]:
    return [place for place, operation in enumerate(operations) if operation.form == form]
