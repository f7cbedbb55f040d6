"""The operations in NumPy and float64, from their definitions: nothing of JAX in them, and nothing to compile."""

from __future__ import annotations

import jax
import numpy as np


def close(got, expected, rtol=2e-5):
    """Compare leaf by leaf: the tolerance is relative to a leaf's largest value, as rounding of sums is."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype or b.dtype == np.float64  # of the exact operations here
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(np.abs(b).max(initial=0), 1e-30))


class Conv:
    """A convolution and its transposes, tap by tap: ``y[p]`` is the sum of ``x[stride p + dilation t - pad] w[t]``."""

    def __init__(self, *, strides=None, padding=None, dilation=None, groups=1):
        self.strides, self.padding, self.dilation, self.groups = strides, padding, dilation, groups

    def __call__(self, x, w):
        """Return the output."""
        return self._sums(x, w)[0]

    def vjp(self, x, w, g):
        """Return the gradients of ``sum(g * conv(x, w))`` for ``x`` and ``w``."""
        return self._sums(x, w, g)[1:]

    def _sums(self, x, w, g=None):
        x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
        window, dims = w.shape[:-2], w.ndim - 2
        ones, pads = (1,) * dims, self.padding or (0,) * dims
        strides, dilation = self.strides or ones, self.dilation or ones
        padded = np.pad(x, ((0, 0), *((p, p) for p in pads), (0, 0)))
        sides = zip(padded.shape[1:-1], window, strides, dilation, strict=True)
        out = [(size - (taps - 1) * d - 1) // s + 1 for size, taps, s, d in sides]
        padded = padded.reshape(*padded.shape[:-1], self.groups, -1)
        w = w.reshape(*w.shape[:-1], self.groups, -1)
        y, dx, dw = 0.0, np.zeros_like(padded), np.zeros_like(w)
        g = None if g is None else np.asarray(g, np.float64).reshape(len(x), *out, self.groups, -1)
        for tap in np.ndindex(*window):
            sides = zip(tap, strides, dilation, out, strict=True)
            met = (slice(None), *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, s, d, n in sides))
            y += np.einsum("...gc,cgk->...gk", padded[met], w[tap])
            if g is not None:
                dx[met] += np.einsum("...gk,cgk->...gc", g, w[tap])
                dw[tap] = np.einsum(
                    "pgc,pgk->cgk", padded[met].reshape(-1, *padded.shape[-2:]), g.reshape(-1, *g.shape[-2:])
                )
        y = np.reshape(y, (len(x), *out, -1))
        inner = (slice(None), *(slice(p, p + n) for p, n in zip(pads, x.shape[1:-1], strict=True)))
        return y, dx[inner].reshape(x.shape), dw.reshape(*dw.shape[:-2], -1)


def batch_norm(x, gain, bias, *, eps=1e-3, relu=False, g=None):
    """Return batch norm over the middle axes; for a cotangent ``g`` also the gradients for the three operands."""
    x, gain, bias = (np.asarray(a, np.float64) for a in (x, gain, bias))
    axes = tuple(range(1, x.ndim - 1))
    over = lambda row: row.reshape(row.shape[0], *(1,) * len(axes), row.shape[1])  # noqa: E731
    centred = x - x.mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(np.square(centred).mean(axes, keepdims=True) + eps)
    y = centred * inverse * over(gain) + over(bias)
    seen = (y > 0) | (not relu)
    if g is None:
        return y * seen
    g = np.asarray(g, np.float64) * seen
    through = g * over(gain) * inverse
    along = (through * centred * inverse).mean(axes, keepdims=True) * centred * inverse
    dx = through - through.mean(axes, keepdims=True) - along
    return y * seen, (dx, (g * centred * inverse).sum(axes), g.sum(axes))


def max_pool(x, window, stride, padding):
    """Return the maximum of each window, and where the first is: an index into ``x.ravel()``."""
    x = np.asarray(x)
    dims = x.ndim - 2
    border = ((0, 0), *((padding, padding),) * dims, (0, 0))
    padded = np.pad(x.astype(np.float64), border, constant_values=-np.inf)
    place = np.pad(np.arange(x.size).reshape(x.shape), border, constant_values=-1)
    out = [(size - window) // stride + 1 for size in padded.shape[1:-1]]
    met = [
        (slice(None), *(slice(t, t + (n - 1) * stride + 1, stride) for t, n in zip(tap, out, strict=True)))
        for tap in np.ndindex(*(window,) * dims)
    ]
    values, places = np.stack([padded[m] for m in met]), np.stack([place[m] for m in met])
    first = values.argmax(0)[None]
    return np.take_along_axis(values, first, 0)[0], np.take_along_axis(places, first, 0)[0]


def max_pool_scatter(g, place, x):
    """Return the gradient for ``x``: each number of ``g`` added at its window's maximum."""
    dx = np.zeros(x.size)
    np.add.at(dx, place.ravel(), np.asarray(g, np.float64).ravel())
    return dx.reshape(x.shape)
