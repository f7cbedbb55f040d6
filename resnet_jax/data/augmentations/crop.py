"""Random crops: a random part of an image, or a padded input cropped back to its size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from resnet_jax.data.augmentations.base import ForExample
from resnet_jax.data.example import Example, Spec
from resnet_jax.data.operations.fields import cut_off, mask_fill, moved
from resnet_jax.data.transforms import register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1

Array = Any
Border = Literal["zeros", "reflect"]
#: Random bits per offset: a window of n positions is uniform to within n / 2^16.
FIELD_BITS = 16


@register_transform("random_resized_crop")
@dataclass(frozen=True)
class RandomResizedCrop:
    """Crops a random part of 8 to 100 % of the image's area and resizes it to data.image_size (ImageNet).

    It is implemented by :class:`resnet_jax.data.transform.Geometry`, because evaluation depends on it.
    """

    where: ClassVar = "host"

    def apply(self, example: Example, rng: Any, spec: Spec, /) -> Example:
        """Not called: the geometry implements it."""
        raise NotImplementedError


@register_transform("random_crop")
@dataclass(frozen=True)
class RandomCrop(ForExample):
    """Pads each side with zeros and crops back to size at random (CIFAR: 4); also for signals and volumes.

    Zero is black, before normalization, as in torchvision's ``RandomCrop(32, padding=4)``; in a mask it is background,
    except that ``segmentation`` is padded with 255, which is no class. With ``border`` reflect, inputs and masks are
    mirrored at their border instead.

    Attributes:
        pad: pixels per side.
        border: the padding: zeros, or reflect.
    """

    pad: AtLeast1
    border: Border = field(default="zeros", kw_only=True)
    stream: ClassVar = None
    name: ClassVar = "random_crop"
    ranks: ClassVar = (2, 3, 4)
    words: ClassVar = 2  # flip takes other bits of the same two

    def __post_init__(self) -> None:
        if self.pad >= 2 ** (FIELD_BITS - 1):
            raise UsageError(f"pad {self.pad} must be at least 0 and below {2 ** (FIELD_BITS - 1)} pixels")

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Crop an input, its masks and its boxes at the same position."""
        pad, shape = self.pad, fields["image"].shape
        if self.border == "reflect" and pad >= min(shape[:-1]):
            raise UsageError(f"random_crop: {pad} pixels cannot be reflected of inputs whose sides are {shape[:-1]}")
        low = xp.uint32(2**FIELD_BITS - 1)
        bits = [words[0] >> xp.uint32(FIELD_BITS), words[0] & low, words[1] & low]
        count = xp.uint32(2 * pad + 1)
        starts = [((word * count) >> xp.uint32(FIELD_BITS)).astype(xp.int32) for word in bits[: len(shape) - 1]]

        def cut(values: Array, fill: int = 0) -> Array:
            rest = values.ndim - len(starts)
            sides = ((pad, pad),) * len(starts) + ((0, 0),) * rest
            if self.border == "reflect":
                frame = xp.pad(values, sides, mode="reflect")
            else:
                frame = xp.pad(values, sides, constant_values=fill)
            return _part(xp, frame, starts, values.shape)

        def shifted(boxes: Array) -> Array:
            by = xp.stack([*starts, *starts]).astype(xp.float32) - xp.float32(pad)
            return (boxes.astype(xp.float32) - by[None]).astype(boxes.dtype)

        found = moved(fields, spec, cut, lambda name, values: cut(values, mask_fill(name)), shifted)
        return cut_off(xp, found, spec, shape)


def _part(xp: Any, frame: Array, starts: list[Array], shape: tuple[int, ...]) -> Array:
    if xp is np:
        return frame[tuple(slice(int(start), int(start) + side) for start, side in zip(starts, shape, strict=False))]
    import jax

    return jax.lax.platform_dependent(
        frame,
        starts,
        tpu=lambda frame, starts: shifted(frame, starts, shape),
        default=lambda frame, starts: sliced(frame, starts, shape),
    )


def sliced(frame: Array, starts: list[Array], shape: tuple[int, ...]) -> Array:
    """Return the part of a frame that starts at a position of its first dimensions; a TPU loops over a batch of it."""
    import jax
    import jax.numpy as jnp

    zeros = [jnp.zeros_like(starts[0])] * (len(shape) - len(starts))
    return jax.lax.dynamic_slice(frame, [*starts, *zeros], shape)


def shifted(frame: Array, starts: list[Array], shape: tuple[int, ...]) -> Array:
    """Return the result of :func:`sliced`, by conditionally shifting the frame by each power of two in the position."""
    import jax
    import jax.numpy as jnp

    for axis, start in enumerate(starts):
        bits = (frame.shape[axis] - shape[axis]).bit_length()
        more = shape[axis] + 2**bits - 1 - frame.shape[axis]  # so that every move finds something, which is cut off
        frame = jnp.pad(frame, [(0, more if each == axis else 0) for each in range(frame.ndim)])
        for bit in reversed(range(bits)):
            kept = shape[axis] + 2**bit - 1
            there = jax.lax.slice_in_dim(frame, 2**bit, 2**bit + kept, axis=axis)
            frame = jnp.where((start >> bit) & 1 == 1, there, jax.lax.slice_in_dim(frame, 0, kept, axis=axis))
    return frame
