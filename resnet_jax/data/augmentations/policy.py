"""A policy: several operations in sequence, each drawn from a table with its magnitude.

All policies have the same form. A layer draws a row uniformly, which is an operation with a probability, and one of the
row's magnitudes, uniformly over levels and over two signs. The tables are computed once per image size, in NumPy, so
that host and device look up the same numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from resnet_jax.data.augmentations.base import ForExample, below, changed_where, unit
from resnet_jax.data.example import Spec
from resnet_jax.data.operations import Drawing, apply_chosen, operation_of
from resnet_jax.data.operations.affine import Interpolation

Array = Any
#: Random words of a layer: row, level, sign, chance.
WORDS = 4
#: Operation -> its magnitudes, (levels, 2 signs).
Magnitudes = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Layer:
    """One draw of an operation.

    Attributes:
        operations: names of the operations that can be drawn.
        which: index of each row's operation, (rows,).
        chance: probability that it is applied, float32 (rows,).
        magnitudes: float32 (rows, levels, 2).
    """

    operations: tuple[str, ...]
    which: np.ndarray
    chance: np.ndarray
    magnitudes: np.ndarray

    def decide(self, xp: Any, words: Array, row_word: Array) -> tuple[Array, Array, Array]:
        """Return which operation, at which magnitude, and whether it is applied.

        Args:
            xp: numpy or jax.numpy.
            words: uint32 (4,).
            row_word: the word that draws the row; the layers of a sub-policy share it.
        """
        which, chance, magnitudes = (xp.asarray(table) for table in (self.which, self.chance, self.magnitudes))
        row, level = below(xp, row_word, len(self.which)), below(xp, words[1], magnitudes.shape[1])
        magnitude = magnitudes[row, level, below(xp, words[2], 2)]
        return which[row], magnitude, unit(xp, words[3]) < chance[row]


def layer_of(rows: Sequence[tuple[str, float]], magnitudes: Sequence[np.ndarray]) -> Layer:
    """Return a layer of rows (operation, probability), each with its magnitudes (levels, 2)."""
    names = tuple(dict.fromkeys(name for name, _ in rows))
    which = np.array([names.index(name) for name, _ in rows], np.int32)
    chance = np.array([probability for _, probability in rows], np.float32)
    return Layer(names, which, chance, np.stack(magnitudes).astype(np.float32))


@dataclass(frozen=True)
class Policy(ForExample):
    """Operations drawn from a table, applied in sequence.

    Attributes:
        interpolation: interpolation of affine operations: nearest, or bilinear; masks use the nearest pixel.
        fill: value beyond the border: a number in 0 .. 255, or one per channel.
    """

    interpolation: Interpolation = dataclasses.field(default="nearest", kw_only=True)
    fill: float | tuple[float, ...] = dataclasses.field(default=0.0, kw_only=True)
    bytes_only: ClassVar = True
    coloured: ClassVar = True
    #: Whether the layers share the drawn row, like the two operations of a sub-policy.
    shares_row: ClassVar = False

    @property
    def count(self) -> int:
        """The number of layers."""
        raise NotImplementedError

    def layers(self, height: int, width: int) -> list[Layer]:
        """Return the layers, for images of a given size."""
        raise NotImplementedError

    def word_count(self) -> int:
        """Return how many random words an example uses."""
        return WORDS * self.count

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Apply what is drawn."""
        height, width = fields["image"].shape[:2]
        drawing = Drawing(self.interpolation, self.fill)
        for place, layer in enumerate(_layers(self, height, width)):
            own = words[WORDS * place : WORDS * (place + 1)]
            which, magnitude, chosen = layer.decide(xp, own, words[0] if self.shares_row else own[0])
            rows = [operation_of(name) for name in layer.operations]

            def change(
                fields: dict[str, Array], rows: Any = rows, which: Array = which, magnitude: Array = magnitude
            ) -> dict[str, Array]:
                return apply_chosen(xp, fields, spec, rows, which, magnitude, drawing)

            sure = bool((layer.chance >= 1).all())
            fields = change(fields) if sure else changed_where(xp, chosen, fields, change)
        return fields


@functools.lru_cache(maxsize=64)
def _layers(policy: Policy, height: int, width: int) -> list[Layer]:
    return policy.layers(height, width)
