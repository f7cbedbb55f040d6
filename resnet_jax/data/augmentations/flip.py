"""Mirroring and quarter turns, without interpolation, for every dtype and rank."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

from resnet_jax.data.augmentations.base import ForExample, below, changed_where
from resnet_jax.data.example import Spec
from resnet_jax.data.operations.fields import moved, moves_along
from resnet_jax.data.transforms import Needs, register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0

Array = Any


@register_transform("flip")
@dataclass(frozen=True)
class Flip(ForExample):
    """Horizontal flip with probability 1/2 (signals and volumes: along the last axis before the channels).

    Do not use it if mirroring changes the class: for digits, letters, left and right.

    Attributes:
        axes: each of these is mirrored independently with probability 1/2, counted from the last before the channels:
            -1 is the width of an image, -2 its height, -3 the depth of a volume.
    """

    axes: tuple[int, ...] = (-1,)
    needs: ClassVar[Needs] = "any"
    stream: ClassVar = None
    name: ClassVar = "flip"
    ranks: ClassVar = (2, 3, 4)
    words: ClassVar = 2  # random_crop takes other bits of the same two

    def __post_init__(self) -> None:
        _check_axes("flip", self.axes)

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Mirror an input, its masks and its boxes."""
        sides = fields["image"].shape[:-1]
        _check_sides("flip", self.axes, sides)
        for axis in self.axes:
            chosen = (words[1] >> xp.uint32(32 + axis)) & xp.uint32(1) == 1
            fields = changed_where(xp, chosen, fields, lambda fields, axis=axis: _mirrored(xp, fields, spec, axis))
        return fields


@register_transform("alternating_flip")
@dataclass(frozen=True)
class AlternatingFlip:
    """Horizontal flip in every other epoch: half of the images in even epochs, the other half in odd ones.

    Two consecutive epochs thus show both sides of every image, while :class:`Flip` shows one of them twice half of the
    time (K. Jordan, arXiv 2404.00498, section 3.6). A hash of an image's index in the data set determines which half
    begins mirrored, independently of the run's seed.

    Attributes:
        salt: another value divides the images differently.
    """

    salt: AtLeast0 = 0
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "any"
    stream: ClassVar = 0x616C74
    mixes: ClassVar = False

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Mirror images, their masks and their boxes."""
        import jax
        import jax.numpy as jnp

        _check_sides("alternating_flip", (-1,), batch["image"].shape[1:-1])
        chosen = mirrored_in(batch["index"], batch["epoch"], self.salt)
        fields = {name: jnp.asarray(array) for name, array in batch.items() if moves_along(name, spec)}

        def one(fields: dict[str, Array], chosen: Array) -> dict[str, Array]:
            return changed_where(jnp, chosen, fields, lambda fields: _mirrored(jnp, fields, spec, -1))

        return {**batch, **jax.vmap(one)(fields, chosen)}


def mirrored_in(index: Array, epoch: Array, salt: int = 0) -> Array:
    """Return whether the examples at these indices are mirrored in these epochs, as booleans of the same shape.

    The hash is the final step of MurmurHash3 (A. Appleby, 2011), every bit of which depends on every bit of the index.

    >>> import numpy as np
    >>> [mirrored_in(np.arange(8), np.full(8, epoch)).astype(int).tolist() for epoch in (0, 1)]
    [[0, 1, 0, 1, 1, 1, 0, 0], [1, 0, 1, 0, 0, 0, 1, 1]]
    """
    import jax.numpy as jnp

    bits = jnp.asarray(index).astype(jnp.uint32) + jnp.uint32(salt * 0x9E3779B9 % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> jnp.uint32(shift))) * jnp.uint32(factor)
    bits = bits ^ (bits >> jnp.uint32(16))
    return ((bits + jnp.asarray(epoch).astype(jnp.uint32)) & jnp.uint32(1)) == 1


@register_transform("rotate90")
@dataclass(frozen=True)
class Rotate90(ForExample):
    """Rotation by 0, 90, 180 or 270 degrees, equally likely, in the plane of two equal sides.

    Attributes:
        axes: the plane; for volumes also (-3, -1) or (-3, -2).
    """

    axes: tuple[int, ...] = (-2, -1)
    needs: ClassVar[Needs] = "any"
    name: ClassVar = "rotate90"
    ranks: ClassVar = (3, 4)
    words: ClassVar = 1

    def __post_init__(self) -> None:
        _check_axes("rotate90", self.axes)
        if len(self.axes) != 2:
            raise UsageError(f"rotate90: axes must be the two of a plane, got {self.axes}")

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Rotate an input, its masks and its boxes."""
        sides = fields["image"].shape[:-1]
        _check_sides("rotate90", self.axes, sides)
        if len({sides[axis] for axis in self.axes}) != 1:
            raise UsageError(
                f"rotate90 turns sides that are equal, and axes {self.axes} of these inputs are "
                f"{[sides[axis] for axis in self.axes]}: bring them to one size (data.image_size)"
            )
        turns = below(xp, words[0], 4)
        for bit, count in ((1, 1), (2, 2)):
            turn = functools.partial(self._turned, xp, spec, count)
            fields = changed_where(xp, (turns & bit) == bit, fields, turn)
        return fields

    def _turned(self, xp: Any, spec: Spec, count: int, fields: dict[str, Array]) -> dict[str, Array]:
        rank = fields["image"].ndim - 1
        width = fields["image"].shape[1]
        first, second = (rank + axis for axis in sorted(self.axes))

        def turned(values: Array) -> Array:
            return xp.rot90(values, count, (first, second))

        def boxes(values: Array) -> Array:
            for _ in range(count):
                top, left, bottom, right = (values[..., place] for place in range(4))
                values = xp.stack([width - right, top, width - left, bottom], axis=-1)
            return values

        return moved(fields, spec, turned, lambda _, values: turned(values), boxes)


def _mirrored(xp: Any, fields: dict[str, Array], spec: Spec, axis: int) -> dict[str, Array]:
    sides = fields["image"].shape[:-1]
    place = len(sides) + axis

    def boxes(values: Array) -> Array:
        top, left, bottom, right = (values[..., place] for place in range(4))
        length = sides[axis]
        if axis == -1:
            return xp.stack([top, length - right, bottom, length - left], axis=-1)
        return xp.stack([length - bottom, left, length - top, right], axis=-1)

    return moved(fields, spec, lambda values: xp.flip(values, place), lambda _, values: xp.flip(values, place), boxes)


def _check_axes(name: str, axes: tuple[int, ...]) -> None:
    known = isinstance(axes, tuple) and all(type(axis) is int and -3 <= axis <= -1 for axis in axes)
    if not axes or not known or len(set(axes)) != len(axes):
        raise UsageError(f"{name}: axes must be some of -1 (width), -2 (height) and -3 (depth), as (-1,), got {axes!r}")


def _check_sides(name: str, axes: tuple[int, ...], sides: tuple[int, ...]) -> None:
    if len(sides) + min(axes) < 0:
        raise UsageError(f"{name}: axes {axes} are more than these inputs have, whose sides are {sides}")
