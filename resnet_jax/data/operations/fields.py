"""What moves with an image: masks to the nearest pixel, boxes around their corners; on the host and on the device.

The functions take one example without a batch axis, and ``xp``: numpy or jax.numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resnet_jax.data.boxes import LEAST_SIDE, NO_BOX
from resnet_jax.data.example import Spec
from resnet_jax.data.operations.affine import Interpolation, Map, moved_boxes, warped

Array = Any
Fields = Mapping[str, Array]
#: For masks of this name: the value that counts as no class, also where an image has no pixels.
UNLABELLED = {"segmentation": 255}


def meaning_in(name: str, spec: Spec) -> str:
    """Return what a field is; the input is an image whatever its rank."""
    return "image" if name == "image" else spec[name].meaning if name in spec else "array"


def moves_along(name: str, spec: Spec) -> bool:
    """Return whether a field changes when the image moves."""
    return name == "box_label" or meaning_in(name, spec) in ("image", "mask", "boxes")


def mask_fill(name: str) -> int:
    """Return a mask's value where there is no image: 0, but 255 for ``segmentation``, which counts nowhere."""
    return UNLABELLED.get(name, 0)


def moved(
    fields: Fields, spec: Spec, image: Callable[[Array], Array], mask: Callable[[str, Array], Array], boxes: Any
) -> dict[str, Array]:
    """Return the fields, each moved by the function for its kind.

    Args:
        fields: fields of an example.
        spec: the meaning of the fields.
        image: moves the input.
        mask: moves a mask, given its name.
        boxes: moves boxes (n, 4).
    """
    found = dict(fields)
    for name, values in fields.items():
        match meaning_in(name, spec):
            case "image":
                found[name] = image(values)
            case "mask":
                found[name] = mask(name, values)
            case "boxes":
                found[name] = boxes(values)
            case _:
                pass
    return found


def cut_off(xp: Any, fields: Fields, spec: Spec, shape: tuple[int, ...]) -> dict[str, Array]:
    """Return the fields with boxes clipped at the border; boxes with less than a pixel of a side left are removed.

    Like :func:`resnet_jax.data.boxes.without_empty`, but also for JAX arrays, with or without a batch axis.

    Args:
        xp: numpy or jax.numpy.
        fields: fields of an example or a batch.
        spec: the meaning of the fields.
        shape: height and width of the image.
    """
    found = dict(fields)
    for name, values in fields.items():
        if meaning_in(name, spec) != "boxes":
            continue
        limits = xp.asarray([*shape[:2]] * 2).astype(values.dtype).reshape(*(1,) * (values.ndim - 1), 4)
        inside = xp.minimum(xp.maximum(values, xp.zeros_like(limits)), limits)
        empty = ((inside[..., 2:] - inside[..., :2]) < LEAST_SIDE).any(axis=-1)
        found[name] = xp.where(empty[..., None], xp.zeros_like(inside), inside)
        if name == "boxes" and "box_label" in fields:
            labels = fields["box_label"]
            found["box_label"] = xp.where(empty, xp.full_like(labels, NO_BOX), labels)
    return found


def mapped(
    xp: Any, fields: Fields, spec: Spec, transform: Map, *, fill: Any = 0, interpolation: Interpolation = "nearest"
) -> dict[str, Array]:
    """Return an example under an affine map.

    Args:
        xp: numpy or jax.numpy.
        fields: fields of the example.
        spec: the meaning of the fields.
        transform: the map.
        fill: value of the image beyond its border.
        interpolation: interpolation of the image; masks use the nearest pixel.
    """
    height, width = fields["image"].shape[:2]
    found = moved(
        fields,
        spec,
        lambda values: warped(xp, values, transform, fill, interpolation),
        lambda name, values: warped(xp, values, transform, mask_fill(name)),
        lambda values: moved_boxes(xp, values, transform, height, width),
    )
    return cut_off(xp, found, spec, (height, width))
