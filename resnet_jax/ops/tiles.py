"""Loops over tiles of a batch, so that intermediate results of a tile stay in the processor's cache.

If the compiler has split the batch over ``devices``, a tile takes its images from all of their parts: the batch is
viewed as ``(devices, tiles, per_tile)`` and the loop runs over the middle axis, so that no image moves.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def images_per_tile(batch: int, devices: int, most: int) -> int:
    """Return the largest divisor of one device's part of the batch that is at most ``most`` (and at least 1).

    >>> images_per_tile(batch=96, devices=2, most=20)
    16
    """
    part = batch // devices
    return max(n for n in range(1, max(1, min(most, part)) + 1) if part % n == 0)


def map_tiles(function: Callable[[Array], Array], x: Array, per_tile: int, devices: int) -> Array:
    """Return ``function(x)``, computed tile by tile; ``function`` acts on each image separately."""
    if x.shape[0] == per_tile * devices:
        return function(x)
    x = _split(x, per_tile, devices)
    each = jax.eval_shape(function, jax.ShapeDtypeStruct(x.shape[2:], x.dtype))
    start = jnp.zeros((*x.shape[:2], *each.shape), each.dtype)

    def body(i, out):
        tile = _take(x, i)
        y = function(tile.reshape(-1, *tile.shape[2:])).reshape(devices, *each.shape)
        return lax.dynamic_update_index_in_dim(out, y, i, axis=1)

    return lax.fori_loop(0, x.shape[1], body, start).reshape(-1, *each.shape[1:])


def sum_tiles(function: Callable[[Array, Array], Array], x: Array, y: Array, per_tile: int, devices: int) -> Array:
    """Return the sum of ``function(x, y)`` over the tiles; each device sums its own part first."""
    x, y = _split(x, per_tile, devices), _split(y, per_tile, devices)
    each = jax.eval_shape(function, *(jax.ShapeDtypeStruct(a.shape[2:], a.dtype) for a in (x, y)))
    if devices > 1:
        function = jax.vmap(function)
        start = jnp.zeros((devices, *each.shape), each.dtype)
        return lax.fori_loop(0, x.shape[1], lambda i, s: s + function(_take(x, i), _take(y, i)), start).sum(0)
    if x.shape[1] == 1:
        return function(x[0, 0], y[0, 0])
    start = jnp.zeros(each.shape, each.dtype)
    return lax.fori_loop(0, x.shape[1], lambda i, s: s + function(_take(x, i)[0], _take(y, i)[0]), start)


def _split(x: Array, per_tile: int, devices: int) -> Array:
    return x.reshape(devices, -1, per_tile, *x.shape[1:])


def _take(x: Array, i: Array) -> Array:
    return lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False)
