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
#: Of masks of this name: what no class is counted at, there as where an image has no pixels.
UNLABELLED = {"segmentation": 255}


def meaning_in(name: str, spec: Spec) -> str:
    """Return what a field is; the input is an image whatever its rank."""
    return "image" if name == "image" else spec[name].meaning if name in spec else "array"


def moves_along(name: str, spec: Spec) -> bool:
    """Whether a field is touched when the image moves."""
    return name == "box_label" or meaning_in(name, spec) in ("image", "mask", "boxes")


def mask_fill(name: str) -> int:
    """Return what a mask has where there is no image: nothing, 0, but 255 of ``segmentation``, which counts nowhere."""
    return UNLABELLED.get(name, 0)


def moved(
    fields: Fields, spec: Spec, image: Callable[[Array], Array], mask: Callable[[str, Array], Array], boxes: Any
) -> dict[str, Array]:
    """Return the fields, each moved by the function for what it is.

    Args:
        fields: of an example.
        spec: what they are.
        image: of the input.
        mask: of its name and a mask.
        boxes: of boxes (n, 4).
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
    """Return the fields with boxes cut off at the border; those of which less than a pixel's side is left are none.

    As :func:`resnet_jax.data.boxes.without_empty`, of arrays of JAX too, and with a batch axis or without.

    Args:
        xp: numpy or jax.numpy.
        fields: of an example or a batch.
        spec: what they are.
        shape: height, width of the image.
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
        fields: of the example.
        spec: what they are.
        transform: the map.
        fill: of the image beyond its border.
        interpolation: of the image; masks take the nearest pixel.
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
