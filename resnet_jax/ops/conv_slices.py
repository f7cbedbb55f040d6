"""Convolutions of volumes and signals as convolutions of images, for which the CPU has compiled forms.

A volume is treated as its slices along the first axis: the taps along that axis become channels, copied side by side,
and one convolution of images does the rest, with as many channels as both together. A signal is an image of one row.
The sums are the same. The table gives GFLOP/s of one core of an AMD EPYC (CPU seconds, including the copies;
``--network volumes`` of ``experiments/benchmarks/conv_forms.py``), first for XLA's own convolution, then for these
forms:

==============================  ========  ==============  ===============
convolution                     forward   input gradient  weight gradient
==============================  ========  ==============  ===============
3x3x3, 64 channels, 32x14x14x14  31, 118   31, 128         26, 102
3x3x3, 1 to 32, 32x28x28x28      3, 20     1, 2            6, 66
==============================  ========  ==============  ===============
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from resnet_jax.ops import native
from resnet_jax.ops.conv_spec import ConvSpec


def takes(spec: ConvSpec, dtype: Any) -> bool:
    """Return whether this is a convolution of a volume or a signal that has a compiled form as images."""
    return spec.dims != 2 and spec.dilation[0] == 1 and native.takes(_of_images(spec), dtype)


def forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.forward`."""
    if spec.dims == 1:
        return native.forward(x[:, None], w[None], _of_images(spec))[:, 0]
    out = _depth(spec)
    g = native.forward(_taps(x, spec, out), _taps_as_inputs(w), _of_images(spec))
    return g.reshape(x.shape[0], out, *g.shape[1:])


def input_gradient(g: Array, w: Array, spec: ConvSpec) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.input_gradient`."""
    images = _of_images(spec)
    if spec.dims == 1:
        return native.input_gradient(g[:, None], w[None], images)[:, 0]
    n, out, *_ = g.shape
    depth, taps, stride, pad = spec.size[0], spec.window[0], spec.strides[0], spec.padding[0]
    if stride == 1:  # slice d has tap t of slice d + pad - t of g
        g = _padded(g, taps - 1 - pad, depth - 1 + pad - (out - 1))
        met = [lax.slice_in_dim(g, t, t + depth, axis=1) for t in reversed(range(taps))]
        met = _merged(jnp.concatenate(met, axis=-1))
        w = jnp.moveaxis(w, 0, -2)
        return _split(native.input_gradient(met, w.reshape(*w.shape[:-2], -1), images), n)
    parts = _split(native.input_gradient(_merged(g), _taps_as_inputs(w), images), n)
    parts = parts.reshape(*parts.shape[:-1], taps, -1)
    length = max((out - 1) * stride + taps, pad + depth)
    x = jnp.zeros((n, length, *parts.shape[2:4], parts.shape[-1]), g.dtype)
    for tap in range(taps):
        after = length - ((out - 1) * stride + 1) - tap
        along = [(0, 0, 0), (tap, after, stride - 1), *[(0, 0, 0)] * 3]
        x = x + lax.pad(parts[..., tap, :], jnp.zeros((), g.dtype), along)
    return lax.slice_in_dim(x, pad, pad + depth, axis=1)


def weight_gradient(x: Array, g: Array, spec: ConvSpec) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.weight_gradient`."""
    if spec.dims == 1:
        return native.weight_gradient(x[:, None], g[:, None], _of_images(spec))[0]
    w = native.weight_gradient(_taps(x, spec, g.shape[1]), _merged(g), _of_images(spec))
    return jnp.moveaxis(w.reshape(*w.shape[:2], spec.window[0], x.shape[-1], g.shape[-1]), 2, 0)


def _of_images(spec: ConvSpec) -> ConvSpec:
    """Return the remaining convolution of images: for a volume the last two axes, for a signal one row."""
    if spec.dims == 1:
        stride = spec.strides[0]
        return dataclasses.replace(
            spec, size=(1, *spec.size), window=(1, *spec.window), strides=(stride, stride),
            padding=(0, *spec.padding), dilation=(1, *spec.dilation),
        )  # fmt: skip
    names = ("size", "window", "strides", "padding", "dilation")
    return dataclasses.replace(spec, **{name: getattr(spec, name)[1:] for name in names})


def _depth(spec: ConvSpec) -> int:
    return (spec.size[0] + 2 * spec.padding[0] - spec.window[0]) // spec.strides[0] + 1


def _padded(x: Array, before: int, after: int) -> Array:
    """Return ``x`` with the given numbers of zero slices before and after; negative numbers crop."""
    along = [(0, 0, 0), (before, after, 0), *[(0, 0, 0)] * (x.ndim - 2)]
    return lax.pad(x, jnp.zeros((), x.dtype), along)


def _taps(x: Array, spec: ConvSpec, out: int) -> Array:
    """Return (n * out, h, w, taps * c): for every output slice the input slices that its taps meet, side by side."""
    taps, stride, pad = spec.window[0], spec.strides[0], spec.padding[0]
    last = (out - 1) * stride + 1
    x = _padded(x, pad, last - 1 + taps - spec.size[0] - pad)
    return _merged(jnp.concatenate([lax.slice_in_dim(x, t, t + last, stride, axis=1) for t in range(taps)], axis=-1))


def _taps_as_inputs(w: Array) -> Array:
    """Return (kd, kh, kw, c, k) as (kh, kw, kd * c, k)."""
    w = jnp.moveaxis(w, 0, 2)
    return w.reshape(*w.shape[:2], -1, w.shape[-1])


def _merged(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _split(x: Array, n: int) -> Array:
    return x.reshape(n, -1, *x.shape[1:])
