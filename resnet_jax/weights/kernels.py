"""Adapt kernels to other inputs: to more or fewer channels, and to volumes instead of images.

Each function preserves a response and says which one. Numbers are NumPy's, with sums in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_jax.errors import UsageError


def average_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Return (*window, I, O) as (*window, channels, O) with the same sum over I: each channel has the scaled average.

    An image with equal channels gets the same response as before.
    """
    total = kernel.astype(np.float64).sum(axis=-2, keepdims=True)
    return np.repeat(total / channels, channels, axis=-2)


def repeat_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Return (*window, I, O) as (*window, channels, O): channel c has the kernel of c mod I, divided among its copies.

    The copies of each of the I channels sum to the original kernel, so an image with equal channels gets the same
    response as before. With fewer channels, the first ones are kept, times I / channels, which only preserves the
    approximate size.

    >>> repeat_channels(np.array([[[2.0], [4.0], [6.0]]]), 4)[0, :, 0].tolist()
    [1.0, 4.0, 6.0, 1.0]
    """
    inputs, exact = kernel.shape[-2], kernel.astype(np.float64)
    of = np.arange(channels) % inputs
    copies = np.bincount(of, minlength=inputs)[of].astype(np.float64)
    found = exact[..., of, :] / copies[:, None]
    return found if channels >= inputs else found * (inputs / channels)


def place_channels(kernel: np.ndarray, channels: int, bands: Sequence[int]) -> np.ndarray:
    """Return (*window, I, O) as (*window, channels, O): channel ``bands[i]`` has kernel i, all others are zero.

    The response is that to the named channels alone, whatever the others contain; the others learn from there.

    >>> place_channels(np.array([[[2.0], [4.0]]]), 4, (3, 1))[0, :, 0].tolist()
    [0.0, 4.0, 0.0, 2.0]
    """
    found = np.zeros((*kernel.shape[:-2], channels, kernel.shape[-1]), np.float64)
    found[..., list(bands), :] = kernel
    return found


def require_bands(bands: Sequence[int], inputs: int, channels: int) -> None:
    """Reject channels that do not exist, are named twice, or are not one for each of ``inputs``.

    Raises:
        UsageError: the message says what would be right.
    """
    if len(bands) != inputs or len(set(bands)) != len(bands) or not all(0 <= band < channels for band in bands):
        raise UsageError(
            f"bands {tuple(bands)} must name {inputs} different channels of 0 to {channels - 1}, one for each channel "
            "that the kernels are for: of red, green, blue"
        )


def inflate(kernel: np.ndarray, depth: int, how: str) -> np.ndarray:
    """Return (*window, I, O) as (depth, *window, I, O).

    Args:
        kernel: a kernel for images.
        depth: number of taps along the new first axis.
        how: ``mean``: repeated along it and divided by ``depth`` (I3D: Carreira and Zisserman 2017, arXiv 1705.07750,
            section 2.4); ``centre``: at the middle tap, with zeros elsewhere (Girdhar et al. 2018, arXiv 1712.09184).

    >>> inflate(np.ones((1, 1, 1)), 3, "centre")[:, 0, 0, 0].tolist(), inflate(np.ones((1, 1, 1)), 2, "mean").sum()
    ([0.0, 1.0, 0.0], np.float64(1.0))
    """
    exact = kernel.astype(np.float64)
    if how == "mean":
        return np.repeat(exact[None] / depth, depth, axis=0)
    found = np.zeros((depth, *kernel.shape), np.float64)
    found[(depth - 1) // 2] = exact
    return found
