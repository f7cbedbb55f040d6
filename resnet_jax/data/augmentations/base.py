"""The base of most transforms: one definition for an example, executed on the host or on the device.

The definition takes the array module ``xp`` and random 32-bit words, so that host and device differ only in where the
words come from: Philox at (seed, epoch, index) on the host, the run's key folded with both on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from resnet_jax.data.example import Spec
from resnet_jax.data.operations.fields import Fields, moves_along
from resnet_jax.data.transforms import Needs
from resnet_jax.errors import UsageError
from resnet_jax.fields import is_known

Array = Any
Where = Literal["device", "host"]


@dataclass(frozen=True)
class ForExample:
    """A transform defined for one example, which can run in either place.

    Attributes:
        where: on the ``device``, within the compiled step, or on the ``host``, in the threads that make batches.
    """

    where: Where = field(default="device", kw_only=True)
    needs: ClassVar[Needs] = "pixels"
    mixes: ClassVar[bool] = False
    #: Arguments that may be traced scalars on the device, so that the members of a population can differ in them.
    carried: ClassVar[tuple[str, ...]] = ()
    name: ClassVar[str] = ""
    #: Whether images must be 8-bit.
    bytes_only: ClassVar[bool] = False
    #: Whether it uses colors, so that images must have 1 channel (gray) or 3.
    coloured: ClassVar[bool] = False
    #: Number of axes of its inputs, including channels; empty for any.
    ranks: ClassVar[tuple[int, ...]] = (3,)
    #: Random words that an example uses.
    words: ClassVar[int] = 1

    def word_count(self) -> int:
        """Return how many random words an example uses."""
        return self.words

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Return one transformed example.

        Args:
            xp: numpy or jax.numpy.
            fields: the image, and what moves with it.
            words: uint32 (word_count,).
            spec: the meaning of the fields.
        """
        raise NotImplementedError

    def check(self, image: Array) -> None:
        """Check an example's image, or its shape and dtype.

        Raises:
            UsageError: if this transform does not support it.
        """
        if self.ranks and image.ndim not in self.ranks:
            kinds = {2: "signals (length, channels)", 3: "images (height, width, channels)", 4: "volumes (d, h, w, c)"}
            taken = " or ".join(kinds[rank] for rank in self.ranks)
            raise UsageError(f"{self.name} takes {taken}; these inputs are {tuple(image.shape)}: leave it out")
        if self.bytes_only and image.dtype != np.uint8:
            raise UsageError(
                f"{self.name} takes images of 8 bits (uint8); these are {image.dtype}: leave it out, or read them with "
                "data.pixels uint8"
            )

        if self.coloured and image.shape[-1] not in (1, 3):
            raise UsageError(
                f"{self.name} takes images of 1 channel (grey) or 3 (red, green, blue); these have {image.shape[-1]}: "
                "leave it out"
            )

    def apply(self, values: dict[str, Array], random: Any, spec: Spec, /) -> dict[str, Array]:
        """Transform one example on the host, or a batch on the device."""
        fields = {name: array for name, array in values.items() if moves_along(name, spec)}
        if self.where == "host":
            self.check(values["image"])
            words = (random.bit_generator.random_raw(self.word_count()) >> np.uint64(32)).astype(np.uint32)
            return {**values, **self.one(np, fields, words, spec)}
        import jax
        import jax.numpy as jnp

        image = values["image"]
        self.check(jax.ShapeDtypeStruct(image.shape[1:], image.dtype))
        words = jax.vmap(lambda key: jax.random.bits(key, (self.word_count(),), jnp.uint32))(random)
        fields = {name: jnp.asarray(array) for name, array in fields.items()}
        return {**values, **jax.vmap(lambda fields, words: self.one(jnp, fields, words, spec))(fields, words)}


def unit(xp: Any, word: Array) -> Array:
    """Return a float32 in [0, 1) from a word, exactly.

    >>> float(unit(np, np.uint32(2**31)))
    0.5
    """
    return (word >> xp.uint32(8)).astype(xp.float32) * xp.float32(2**-24)


def below(xp: Any, word: Array, count: int) -> Array:
    """Return an integer in 0 .. count - 1 from the upper 16 bits of a word; count is at most 65,536.

    >>> int(below(np, np.uint32(2**32 - 1), 5)), int(below(np, np.uint32(0), 5))
    (4, 0)
    """
    return (((word >> xp.uint32(16)) * xp.uint32(count)) >> xp.uint32(16)).astype(xp.int32)


def between(xp: Any, word: Array, low: float, high: float) -> Array:
    """Return a float32 uniform in [low, high); low if both are equal."""
    return xp.float32(low) + xp.float32(high - low) * unit(xp, word)


def with_chance(
    xp: Any, word: Array, probability: float, fields: Fields, change: Callable[[dict[str, Array]], dict[str, Array]]
) -> dict[str, Array]:
    """Return the fields changed with a probability, otherwise unchanged; the host computes only what it needs."""
    if is_known(probability) and probability >= 1:
        return change(dict(fields))
    return changed_where(xp, unit(xp, word) < xp.float32(probability), fields, change)


def changed_where(
    xp: Any, chosen: Array, fields: Fields, change: Callable[[dict[str, Array]], dict[str, Array]]
) -> dict[str, Array]:
    """Return the fields changed where ``chosen``."""
    if xp is np:
        return change(dict(fields)) if chosen else dict(fields)
    return {name: xp.where(chosen, new, fields[name]) for name, new in change(dict(fields)).items()}


def require_images(name: str, batch: dict[str, Any]) -> None:
    """Reject a batch of inputs that are not images.

    Raises:
        UsageError: for signals or volumes.
    """
    if batch["image"].ndim != 4:
        raise UsageError(
            f"{name} takes images (height, width, channels); these inputs are {batch['image'].shape[1:]}: leave it out"
        )
