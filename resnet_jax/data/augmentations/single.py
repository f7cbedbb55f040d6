"""Every row of the table of operations as a transform with its name: ``brightness(0.6, 1.4)``, ``invert``.

Operations with a magnitude draw it uniformly from low to high; without high it is always low.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from resnet_jax.data.augmentations.base import ForExample, between, with_chance
from resnet_jax.data.example import Spec
from resnet_jax.data.operations import OPERATIONS, Drawing, Operation, apply_operation
from resnet_jax.data.operations.affine import Interpolation
from resnet_jax.data.transforms import register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import Share

Array = Any


@dataclass(frozen=True)
class _Single(ForExample):
    """One operation, with a probability.

    Attributes:
        probability: probability that an image is changed.
    """

    probability: Share = dataclasses.field(default=1.0, kw_only=True)
    operation: ClassVar[Operation]
    words: ClassVar = 2
    carried: ClassVar = ("probability",)

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Apply it, at the drawn magnitude."""

        def change(fields: dict[str, Array]) -> dict[str, Array]:
            magnitude = self.magnitude(xp, words[1])
            return apply_operation(xp, fields, spec, self.operation, magnitude, self.drawing())

        return with_chance(xp, words[0], self.probability, fields, change)

    def magnitude(self, xp: Any, word: Array) -> Array:
        """Return the magnitude for a random word."""
        return xp.float32(0)

    def drawing(self) -> Drawing:
        """Return how affine operations resample."""
        return Drawing()


@dataclass(frozen=True)
class _Ranged(_Single):
    """One operation at a magnitude from a range.

    Attributes:
        low: smallest magnitude.
        high: largest magnitude; None: the same as low.
    """

    low: float
    high: float | None = None
    carried: ClassVar = ("probability", "low", "high")

    def __post_init__(self) -> None:
        row, high = self.operation, self.low if self.high is None else self.high
        if not row.low <= self.low <= high <= row.high:
            raise UsageError(
                f"{row.name}: need {row.low:g} <= low <= high <= {row.high:g} ({row.magnitude}), got {self.low:g} and "
                f"{high:g}"
            )
        if row.whole and (self.low != int(self.low) or high != int(high)):
            raise UsageError(
                f"{row.name}: low and high are whole numbers ({row.magnitude}), got {self.low:g}, {high:g}"
            )

    def magnitude(self, xp: Any, word: Array) -> Array:
        """Return the magnitude for a random word."""
        high = self.low if self.high is None else self.high
        if self.operation.whole:  # high among them
            return xp.floor(between(xp, word, self.low, high + 1))
        return between(xp, word, self.low, high)


@dataclass(frozen=True)
class _Map(_Ranged):
    """An affine operation at a magnitude from a range.

    Attributes:
        interpolation: nearest, or bilinear; masks use the nearest pixel.
        fill: image value beyond the border: a number, or one per channel.
    """

    interpolation: Interpolation = dataclasses.field(default="nearest", kw_only=True)
    fill: float | tuple[float, ...] = dataclasses.field(default=0.0, kw_only=True)

    def drawing(self) -> Drawing:
        """Return how affine operations resample."""
        return Drawing(self.interpolation, self.fill)


def _transform_of(row: Operation) -> type:
    base = _Map if row.form == "affine" else _Ranged if row.magnitude else _Single
    title = "".join(part.capitalize() for part in row.name.split("_"))
    body = {
        "__doc__": f"{row.does.rstrip('.')}{f'; magnitude: {row.magnitude}' if row.magnitude else ''}.",
        "__module__": __name__,
        "operation": row,
        "name": row.name,
        "bytes_only": row.form != "affine",
        "coloured": row.name in ("contrast", "saturation", "grey", "hue"),
    }
    kind = dataclass(frozen=True)(type(title, (base,), body))
    globals()[title] = kind  # pickled by its name
    return register_transform(row.name)(kind)


for _row in OPERATIONS.values():
    if _row.name != "identity":
        _transform_of(_row)
