"""Convolutions with groups of few channels on a TPU: groups side by side in one larger kernel.

An MXU multiplies 128 channels at a time, however few a group has, and for a grouped convolution XLA reorders
activations back and forth. Groups are therefore joined into pieces of at most :data:`CHANNELS` channels. Each is a
convolution without groups, whose kernel has the group kernels on its diagonal and zeros elsewhere; of the gradient of
that kernel only the diagonal is kept. Products with zeros are exact, so the numbers are those of the groups; only
non-finite values spread within a piece.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from resnet_jax.ops import conv_spec
from resnet_jax.ops.conv_spec import ConvSpec

#: Maximum channels per piece, unless there would be more than :data:`PIECES`.
CHANNELS = 128
#: Maximum number of pieces, if the groups are that small: each is three kernels of the program.
PIECES = 8


def joined(channels: int, groups: int) -> int:
    """Return how many groups of this many channels are joined.

    >>> joined(4, 32), joined(16, 32), joined(48, 6), joined(256, 2), joined(64, 32)
    (32, 8, 2, 1, 4)
    """
    able = [m for m in range(1, groups + 1) if groups % m == 0]
    most = max(m for m in able if m == 1 or m * channels <= CHANNELS)
    return next(m for m in able if m >= most and groups // m <= PIECES)


def forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.forward`."""
    m = joined(w.shape[-2], spec.groups)
    return _each(conv_spec.forward, spec, m, x, _side_by_side(w, spec.groups, m))


def input_gradient(g: Array, w: Array, spec: ConvSpec) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.input_gradient`."""
    m = joined(w.shape[-2], spec.groups)
    return _each(conv_spec.input_gradient, spec, m, g, _side_by_side(w, spec.groups, m))


def weight_gradient(x: Array, g: Array, spec: ConvSpec) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.weight_gradient`."""
    channels = x.shape[-1] // spec.groups
    m = joined(channels, spec.groups)
    w = _each(conv_spec.weight_gradient, spec, m, x, g)
    blocks = w.reshape(*spec.window, m, channels, spec.groups // m, m, g.shape[-1] // spec.groups)
    return jnp.sum(jnp.where(_diagonal(m), blocks, jnp.zeros_like(blocks)), -5).reshape(*spec.window, channels, -1)


def _each(form: Callable[[Array, Array, ConvSpec], Array], spec: ConvSpec, m: int, a: Array, b: Array) -> Array:
    """Apply ``form`` to every ``m`` groups of both operands, which are split along their last dimensions."""
    count = spec.groups // m
    alone = dataclasses.replace(spec, groups=1)
    if count == 1:
        return form(a, b, alone)
    pairs = zip(jnp.split(a, count, -1), jnp.split(b, count, -1), strict=True)
    return jnp.concatenate([form(one, other, alone) for one, other in pairs], -1)


def _side_by_side(w: Array, groups: int, m: int) -> Array:
    """Return the kernel (*window, m c, k) of joined groups for the kernel (*window, c, k)."""
    *window, channels, outputs = w.shape
    blocks = w.reshape(*window, 1, channels, groups // m, m, outputs // groups)
    blocks = jnp.where(_diagonal(m), blocks, jnp.zeros_like(blocks))
    return blocks.reshape(*window, m * channels, outputs)


def _diagonal(m: int) -> Array:
    """Return the mask (m, 1, 1, m, 1): whether an input channel group is the group of the output channels."""
    return jnp.eye(m, dtype=bool)[:, None, None, :, None]
