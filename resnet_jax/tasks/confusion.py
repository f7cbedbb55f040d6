"""Confusions as sparse counts: memory grows with the pairs that occur, not with the square of the classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Maximum number of entries of a dense confusion matrix (2 GiB); beyond it there are only the counts.
DENSE_LIMIT = 1 << 28


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of (true, predicted) pairs, stored only for pairs that occur, however many classes there are.

    NumPy converts it to the matrix (``np.asarray(confusion)``), int64 (classes, classes): row i, column j counts the
    examples of class i that were predicted as class j.

    Attributes:
        classes: outputs of the network.
        true: int64 (pairs,), the true class of each pair that occurred; sorted, then by ``predicted``.
        predicted: int64 (pairs,).
        counts: int64 (pairs,), examples per pair; all above 0.

    >>> counts = Confusion.of({(0, 0): 5, (1, 0): 2}, 2)
    >>> counts.dense().tolist(), counts.total_of_true().tolist()
    ([[5, 0], [2, 0]], [5, 2])
    """

    classes: int
    true: np.ndarray
    predicted: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, pairs: Mapping[tuple[int, int], int], classes: int) -> Confusion:
        """Create one from ``(true, predicted) -> examples``."""
        rows = np.array([(*pair, pairs[pair]) for pair in sorted(pairs) if pairs[pair]], np.int64).reshape(-1, 3)
        return cls(classes, *rows.T)

    @classmethod
    def of_rows(cls, true: np.ndarray, predicted: np.ndarray, classes: int) -> Confusion:
        """Count true and predicted classes (N,).

        >>> Confusion.of_rows(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).dense().tolist()
        [[1, 0], [1, 1]]
        """
        pairs, counts = np.unique(np.stack([true, predicted]).astype(np.int64), axis=1, return_counts=True)
        return cls(classes, pairs[0], pairs[1], counts.astype(np.int64))

    @classmethod
    def from_dense(cls, matrix: np.ndarray) -> Confusion:
        """Create one from a matrix (classes, classes)."""
        true, predicted = np.nonzero(matrix)
        return cls(len(matrix), true.astype(np.int64), predicted.astype(np.int64), matrix[true, predicted])

    def __len__(self) -> int:
        return self.classes

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.classes, self.classes

    def dense(self) -> np.ndarray:
        """Return the matrix, int64 (classes, classes).

        Raises:
            ValueError: it would take more than 2 GiB; use the counts.
        """
        if self.classes**2 > DENSE_LIMIT:
            raise ValueError(f"a matrix of {self.classes} x {self.classes} classes is too large; use the counts")
        matrix = np.zeros(self.shape, np.int64)
        matrix[self.true, self.predicted] = self.counts
        return matrix

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.dense() if dtype is None else self.dense().astype(dtype)

    def grouped(self, each: int) -> Confusion:
        """Return the counts of groups of ``each`` adjacent classes."""
        if each == 1:
            return self
        pairs: dict[tuple[int, int], int] = {}
        true, predicted = (side // each for side in (self.true, self.predicted))
        for row, column, count in zip(true.tolist(), predicted.tolist(), self.counts.tolist(), strict=True):
            pairs[row, column] = pairs.get((row, column), 0) + count
        return Confusion.of(pairs, -(-self.classes // each))

    def total_of_true(self) -> np.ndarray:
        """Return the examples of every class, int64 (classes,)."""
        return np.bincount(self.true, self.counts, self.classes).astype(np.int64)

    def total_of_predicted(self) -> np.ndarray:
        """Return the number of examples predicted as every class, int64 (classes,)."""
        return np.bincount(self.predicted, self.counts, self.classes).astype(np.int64)

    def correct_of_true(self) -> np.ndarray:
        """Return the number of correctly predicted examples of every class, int64 (classes,)."""
        same = self.true == self.predicted
        return np.bincount(self.true[same], self.counts[same], self.classes).astype(np.int64)
