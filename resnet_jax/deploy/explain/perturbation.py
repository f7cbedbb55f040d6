"""Deletion and insertion: does the score follow the map when pixels are removed or added in its order?"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.deploy.explain.forward import probability
from resnet_jax.deploy.explain.targets import as_target
from resnet_jax.errors import UsageError

STEPS = 16


class Curves(NamedTuple):
    """The target's probability as pixels are removed and added.

    Attributes:
        shares: share of the pixels that were changed, (steps + 1,), 0 to 1.
        deletion: probability with the most important pixels replaced by the baseline, (N, steps + 1).
        insertion: probability with only the most important pixels present, (N, steps + 1).
    """

    shares: Array
    deletion: Array
    insertion: Array

    @property
    def deletion_auc(self) -> np.ndarray:
        """Area under the deletion curve, (N,): small if the map shows what the score comes from."""
        return area(self.deletion)

    @property
    def insertion_auc(self) -> np.ndarray:
        """Area under the insertion curve, (N,): large if the map shows what suffices."""
        return area(self.insertion)


@functools.partial(jax.jit, static_argnames=("model", "steps", "cell"))
def deletion_insertion(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "n *sides c"],
    target: Any,
    maps: Float[Array, " n *sides"],
    baseline: Any = 0.0,
    *,
    steps: int = STEPS,
    cell: tuple[int, ...] | None = None,
) -> Curves:
    """Return the deletion and insertion curves of every image for the order that its map gives.

    V. Petsiuk et al. 2018, *RISE: Randomized Input Sampling for Explanation of Black-box Models* (arXiv 1806.07421,
    section 4.3). Both curves start or end at the same baseline. Cells of several pixels are changed, in the order of
    the map's mean in each: single pixels in random order are noise, which fools a network far more than a missing
    region does, so a random order would seem better than any map. Cells with equal means follow in random order, the
    same in every call, so that a map without content is a random order.

    Args:
        model: the network.
        variables: its variables.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        maps: larger is more important.
        baseline: replaces a pixel; 0 is the mean of the training images.
        steps: number of steps in which they are changed.
        cell: sides of a cell in pixels; default: an eighth of the image's.

    Raises:
        UsageError: fewer than 1 step.
    """
    if steps < 1:
        raise UsageError(f"deletion and insertion need 1 step or more, got {steps}")
    target = as_target(target)
    images = images.astype(jnp.float32)
    base = jnp.broadcast_to(jnp.asarray(baseline, jnp.float32), images.shape)
    cells, count = _cells(images.shape[1:-1], cell)
    totals = jax.vmap(lambda one: jax.ops.segment_sum(one.reshape(-1), cells.reshape(-1), count))(maps)
    means = totals / jnp.asarray(np.bincount(cells.reshape(-1)), jnp.float32)[None]
    ties = jax.random.uniform(jax.random.key(0), means.shape)
    order = jnp.lexsort((ties, -means), axis=1)
    ranks = jnp.argsort(order, axis=1)[:, cells]
    shares = np.arange(steps + 1) / steps

    def at(limit: Array) -> tuple[Array, Array]:
        first = (ranks < limit)[..., None]  # pixels of the most important cells
        without, alone = jnp.where(first, base, images), jnp.where(first, images, base)
        return probability(model, variables, without, target), probability(model, variables, alone, target)

    deletion, insertion = jax.lax.map(at, jnp.asarray(np.rint(shares * count), jnp.int32))
    return Curves(jnp.asarray(shares, jnp.float32), deletion.T, insertion.T)


def random_order(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "n *sides c"],
    target: Any,
    key: Array,
    baseline: Any = 0.0,
    *,
    steps: int = STEPS,
    orders: int = 3,
) -> Curves:
    """Return the mean curves of some random orders: the baseline for :func:`deletion_insertion`.

    Args:
        model: the network.
        variables: its variables.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        key: PRNG key of the orders.
        baseline: as in :func:`deletion_insertion`.
        steps: as in :func:`deletion_insertion`.
        orders: number of orders.
    """
    found = [
        deletion_insertion(
            model, variables, images, target, jax.random.uniform(one, images.shape[:-1]), baseline, steps=steps
        )
        for one in jax.random.split(key, orders)
    ]
    return jax.tree.map(lambda *each: jnp.stack(each).mean(axis=0), *found)


def _cells(sides: tuple[int, ...], cell: tuple[int, ...] | None) -> tuple[np.ndarray, int]:
    """Return the index of the cell that contains each position, int (*sides), and the number of cells."""
    cell = tuple(max(1, side // 8) for side in sides) if cell is None else cell
    along = [np.arange(side) // size for side, size in zip(sides, cell, strict=True)]
    shape = [int(one[-1]) + 1 for one in along]
    numbers = np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), shape)
    return numbers, int(np.prod(shape))


def area(curves: Any) -> np.ndarray:
    """Return the area under curves (N, points) over equal parts of 0 to 1, by the trapezoidal rule, float64 (N,).

    >>> area([[1.0, 0.5, 0.0]]).tolist()
    [0.5]
    """
    values = np.asarray(curves, np.float64)
    return ((values[:, 1:] + values[:, :-1]) / 2).mean(axis=1)
