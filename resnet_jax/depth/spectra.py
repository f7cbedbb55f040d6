"""Singular values of several operators in depth order, exact or by quadrature, in one form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from resnet_jax.depth.lanczos import singular_ritz
from resnet_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Spectra:
    """Singular values of ``operators`` linear maps, float64.

    A map with m outputs and n inputs has min(m, n) singular values here. ``values`` and ``weights`` are their
    distribution: all of them with equal weights if they are ``exact``, otherwise the nodes of a quadrature, averaged
    over the probes.

    Attributes:
        largest: ``(operators,)``; a lower bound where it has not converged.
        smallest: ``(operators,)``; an upper bound where it has not converged.
        largest_residual: there is a singular value within this distance of ``largest``; 0 where exact.
        smallest_residual: the same for ``smallest``.
        values: ``(operators, points)``; entries without weight are 0.
        weights: ``(operators, points)``; every row sums to 1.
        shapes: m and n, int ``(operators, 2)``.
        exact: whether all singular values were computed.
    """

    largest: np.ndarray
    smallest: np.ndarray
    largest_residual: np.ndarray
    smallest_residual: np.ndarray
    values: np.ndarray
    weights: np.ndarray
    shapes: np.ndarray
    exact: bool

    def __len__(self) -> int:
        return len(self.largest)

    def largest_converged(self, tolerance: float = 1e-2) -> np.ndarray:
        """Return whether ``largest`` is accurate to a relative ``tolerance``, bool ``(operators,)``."""
        return self.largest_residual <= tolerance * self.largest

    def smallest_converged(self, tolerance: float = 1e-2) -> np.ndarray:
        """Return whether ``smallest`` is accurate to ``tolerance`` times the largest, bool ``(operators,)``.

        Relative to itself, a value near 0 has no correct digits in any method of finite precision.
        """
        return self.smallest_residual <= tolerance * self.largest

    @property
    def mean_square(self) -> np.ndarray:
        """Mean squared singular value ``||J||_F^2 / min(m, n)``, ``(operators,)``: 1 where lengths are preserved."""
        return np.sum(self.weights * np.square(self.values), axis=1)

    @property
    def squared_norm(self) -> np.ndarray:
        """Squared Frobenius norm ``||J||_F^2``, ``(operators,)``."""
        return self.mean_square * self.shapes.min(axis=1)

    def quantiles(self, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the quantiles of the singular values at ``levels`` in [0, 1], ``(operators, levels)``.

        Between quadrature nodes, each in the middle of its weight, the distribution is interpolated.
        """
        levels = np.asarray(levels, np.float64)
        rows = []
        for values, weights in zip(self.values, self.weights, strict=True):
            values, weights = values[weights > 0], weights[weights > 0]
            if not len(values):
                rows.append(np.full(levels.shape, np.nan))
                continue
            order = np.argsort(values)
            values, weights = values[order], weights[order]
            rows.append(np.interp(levels, np.cumsum(weights) - weights / 2.0, values))
        return np.stack(rows)

    def histogram(self, edges: ArrayLike) -> np.ndarray:
        """Return the density over the bins between ``edges``, ``(operators, bins)``; times the bin widths it sums to 1.

        Values outside the edges are left out. Quadrature nodes are points, so choose bins at least as wide as their
        distance, or use :meth:`density`.
        """
        edges = np.asarray(edges, np.float64)
        nothing = np.full(len(edges) - 1, np.nan)
        rows = [
            np.histogram(values, edges, weights=weights)[0] if np.isfinite(values).all() else nothing
            for values, weights in zip(self.values, self.weights, strict=True)
        ]
        return np.stack(rows) / np.diff(edges)

    def density(self, grid: ArrayLike, width: float) -> np.ndarray:
        """Return the density on ``grid``, ``(operators, grid)``: every point smoothed by a Gaussian of that width."""
        distance = (np.asarray(grid, np.float64)[:, None] - self.values[:, None, :]) / width
        kernel = np.exp(-0.5 * np.square(distance)) / (width * np.sqrt(2.0 * np.pi))
        return np.einsum("ogp,op->og", kernel, self.weights)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the fields as arrays, named ``{prefix}_{field}``."""
        return {f"{prefix}_{field.name}": np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Any, prefix: str) -> Spectra:
        """Rebuild from the result of :meth:`arrays`."""
        fields = {field.name: arrays[f"{prefix}_{field.name}"] for field in dataclasses.fields(cls)}
        return cls(**{**fields, "exact": bool(fields["exact"])})


def from_bidiagonals(numbers: Sequence[tuple[Any, Any]], shapes: Sequence[tuple[int, int]]) -> Spectra:
    """Return the spectra from Golub-Kahan bidiagonals.

    Args:
        numbers: for each operator its diagonals and upper diagonals, ``(probes, k)`` each; k may differ.
        shapes: numbers of outputs and inputs of each.
    """
    rows = []
    for diagonals, uppers in numbers:
        ritz = [singular_ritz(*pair) for pair in zip(np.asarray(diagonals), np.asarray(uppers), strict=True)]
        high = max(ritz, key=lambda one: one.values[-1])
        low = min(ritz, key=lambda one: one.values[0])
        values = np.concatenate([one.values for one in ritz])
        weights = np.concatenate([one.weights for one in ritz]) / len(ritz)
        extremes = (high.values[-1], low.values[0], high.residuals[-1], low.residuals[0])
        rows.append((*extremes, values, weights))
    return _spectra(rows, shapes, exact=False)


def from_matrices(matrices: Sequence[np.ndarray]) -> Spectra:
    """Return the exact spectra of block-diagonal operators, each ``(examples, m, n)``."""
    rows, shapes = [], []
    for blocks in matrices:
        blocks = np.asarray(blocks, np.float64)
        if np.isfinite(blocks).all():
            values = np.sort(np.linalg.svd(blocks, compute_uv=False).ravel())
        else:
            values = np.full(blocks.shape[0] * min(blocks.shape[1:]), np.nan)
        rows.append((values[-1], values[0], 0.0, 0.0, values, np.full(values.shape, 1.0 / len(values))))
        shapes.append((blocks.shape[0] * blocks.shape[1], blocks.shape[0] * blocks.shape[2]))
    return _spectra(rows, shapes, exact=True)


def _spectra(rows: Sequence[tuple], shapes: Sequence[tuple[int, int]], exact: bool) -> Spectra:
    points = max(len(row[4]) for row in rows)

    def padded(column: int) -> np.ndarray:
        return np.stack([np.pad(row[column], (0, points - len(row[column]))) for row in rows])

    high, low, high_residual, low_residual = np.asarray([row[:4] for row in rows], np.float64).T
    return Spectra(high, low, high_residual, low_residual, padded(4), padded(5), np.asarray(shapes), exact)


def check_counts(**counts: int) -> None:
    """Raise a UsageError if a count (iterations, probes) is not at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"{name} must be at least 1, got {count}")
