"""Occlusion: how much the score drops when a window of the image is covered."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.deploy.explain.forward import score
from resnet_jax.deploy.explain.targets import as_target
from resnet_jax.errors import UsageError


@functools.partial(jax.jit, static_argnames=("model", "window", "stride"))
def occlusion(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "n *sides c"],
    target: Any,
    baseline: Any = 0.0,
    *,
    window: tuple[int, ...] | None = None,
    stride: tuple[int, ...] | None = None,
) -> Float[Array, " n *sides"]:
    """Return for every position how much the score drops when it is covered, averaged over the windows that cover it.

    M. Zeiler and R. Fergus 2013, *Visualizing and Understanding Convolutional Networks* (arXiv 1311.2901, section 4.2).
    All channels are covered at once. It needs no gradient, but as many forward passes as there are windows.

    Args:
        model: the network.
        variables: its variables.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        baseline: replaces the covered pixels, and broadcasts to the images; 0 is the mean of the training images.
        window: sides of the window; default: a quarter of the image's.
        stride: distance from one window to the next; default: half the window. The last one in a row may be cut off.

    Raises:
        UsageError: the numbers of dimensions of window and image differ, or a side is below 1.
    """
    target, sides = as_target(target), images.shape[1:-1]
    window, stride = windows_of(sides, window, stride)
    images = images.astype(jnp.float32)
    base = jnp.broadcast_to(jnp.asarray(baseline, jnp.float32), images.shape)
    whole = score(model, variables, images, target)
    positions = [jnp.arange(side) for side in sides]

    def add(total: Array, corner: Array) -> tuple[Array, None]:
        covered = jnp.ones(sides, bool)
        for axis, (at, size) in enumerate(zip(positions, window, strict=True)):
            inside = (at >= corner[axis]) & (at < corner[axis] + size)
            covered &= inside.reshape(*(-1 if other == axis else 1 for other in range(len(sides))))
        fallen = whole - score(model, variables, jnp.where(covered[None, ..., None], base, images), target)
        return total + fallen.reshape(-1, *(1,) * len(sides)) * covered[None].astype(jnp.float32), None

    corners = _corners(sides, window, stride)
    total, _ = jax.lax.scan(add, jnp.zeros(images.shape[:-1], jnp.float32), jnp.asarray(corners, jnp.int32))
    times = np.zeros(sides, np.float32)
    for corner in corners:
        times[tuple(slice(at, at + size) for at, size in zip(corner, window, strict=True))] += 1
    return total / jnp.maximum(jnp.asarray(times), 1.0)[None]


def windows_of(
    sides: Sequence[int], window: Sequence[int] | None = None, stride: Sequence[int] | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return window and stride for an image of these sides: those given, or a quarter of the sides and half of that.

    >>> windows_of((32, 64)), windows_of((5,))
    (((8, 16), (4, 8)), ((2,), (1,)))
    """
    window = tuple(-(-side // 4) for side in sides) if window is None else tuple(window)
    stride = tuple(max(1, size // 2) for size in window) if stride is None else tuple(stride)
    for name, sizes in (("window", window), ("stride", stride)):
        if len(sizes) != len(sides) or min(sizes) < 1:
            raise UsageError(f"occlusion {name} {sizes}: need {len(sides)} sides of 1 or more for images of {sides}")
    return window, stride


def _corners(sides: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the first positions of the windows; the last along an axis reaches the end, or beyond."""
    along = [
        range(0, -(-max(side - size, 0) // step) * step + 1, step)
        for side, size, step in zip(sides, window, stride, strict=True)
    ]
    return list(itertools.product(*along))
