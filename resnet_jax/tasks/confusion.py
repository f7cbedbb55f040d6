"""Which classes a network takes for which, as counts: memory goes by the pairs that occur, not by classes squared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Entries of a dense confusion matrix that are made on demand; beyond (2 GiB) only the counts are there.
DENSE_LIMIT = 1 << 28


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """Which classes were taken for which: counts of the pairs that occurred, however many classes there are.

    NumPy takes it for the matrix (``np.asarray(confusion)``), int64 (classes, classes): row i, column j are the
    examples of class i that were taken for class j.

    Attributes:
        classes: outputs of the network.
        true: int64 (pairs,), the true class of each pair that occurred; sorted, then by ``predicted``.
        predicted: int64 (pairs,).
        counts: int64 (pairs,), examples of the pair; all above 0.

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
        """Make one of ``(true, predicted) -> examples``."""
        rows = np.array([(*pair, pairs[pair]) for pair in sorted(pairs) if pairs[pair]], np.int64).reshape(-1, 3)
        return cls(classes, *rows.T)

    @classmethod
    def of_rows(cls, true: np.ndarray, predicted: np.ndarray, classes: int) -> Confusion:
        """Count the classes (N,) that examples are of and were taken for.

        >>> Confusion.of_rows(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).dense().tolist()
        [[1, 0], [1, 1]]
        """
        pairs, counts = np.unique(np.stack([true, predicted]).astype(np.int64), axis=1, return_counts=True)
        return cls(classes, pairs[0], pairs[1], counts.astype(np.int64))

    @classmethod
    def from_dense(cls, matrix: np.ndarray) -> Confusion:
        """Make one of a matrix (classes, classes)."""
        true, predicted = np.nonzero(matrix)
        return cls(len(matrix), true.astype(np.int64), predicted.astype(np.int64), matrix[true, predicted])

    def __len__(self) -> int:
        return self.classes

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
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
        """Return the counts of groups of ``each`` neighbouring classes."""
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
        """Return the examples that were taken for every class, int64 (classes,)."""
        return np.bincount(self.predicted, self.counts, self.classes).astype(np.int64)

    def correct_of_true(self) -> np.ndarray:
        """Return the examples of every class that were taken for it, int64 (classes,)."""
        same = self.true == self.predicted
        return np.bincount(self.true[same], self.counts[same], self.classes).astype(np.int64)
