"""Whitening of image patches by the first convolution, computed from training images.

Let x be the patches of ``window`` x ``window`` pixels of normalized images, with P = window^2 C values each, and let
their second moments be E[x x^T] = V diag(s) V^T. The P filters

    v_i / sqrt(s_i + eps)        largest s_i first

give uncorrelated outputs of (about) unit variance: principal component whitening (D. Page, How to Train Your ResNet 8,
2018). The stem also contains the negative of each filter, so that an activation loses nothing (tysam-code, hlb-CIFAR10,
2023; K. Jordan, arXiv 2404.00498, section 3.1). The filters are then frozen. ``eps`` limits the amplification of
directions that natural images hardly contain.

The sign of an eigenvector is arbitrary: the entry of largest magnitude is made positive, so that equal images give
equal filters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.models.paths import STEM, WHITEN

#: Added to the eigenvalues for patches of normalized images (as in the code of arXiv 2404.00498).
EPS = 5e-4


class PatchMoments:
    """Sums of the products of every two values of a patch, over all patches of the added images.

    Args:
        window: side of a patch.
    """

    def __init__(self, window: int) -> None:
        self._window, self._sums, self._count = window, np.zeros(()), 0

    def add(self, images: np.ndarray) -> None:
        """Add the patches of normalized inputs (N, *spatial, C).

        Raises:
            UsageError: the inputs are smaller than a patch.
        """
        window, spatial = self._window, images.shape[1:-1]
        if min(spatial) < window:
            raise UsageError(f"whiten_window {window} is more than these inputs have, whose sides are {spatial}")
        values = images.astype(np.float64)
        cut = []
        for corner in itertools.product(range(window), repeat=len(spatial)):
            ends = [side - window + 1 + at for side, at in zip(spatial, corner, strict=True)]
            cut.append(values[:, *(slice(at, end) for at, end in zip(corner, ends, strict=True))])
        patches = np.concatenate(cut, axis=-1).reshape(-1, len(cut) * images.shape[-1])
        self._sums = self._sums + patches.T @ patches
        self._count += len(patches)

    def mean(self) -> np.ndarray:
        """Return E[x x^T], float64 (P, P), with x in the order of a kernel, channels last."""
        if self._count == 0:
            raise UsageError("there are no images to compute the whitening from")
        return self._sums / self._count


def whitening_filters(moments: np.ndarray, eps: float = EPS) -> np.ndarray:
    """Return the filters that whiten patches with the given second moments, and their negatives, float64 (P, 2 P).

    Args:
        moments: E[x x^T], symmetric, (P, P).
        eps: added to the eigenvalues.

    >>> whitening_filters(np.diag([4.0, 1.0]), eps=0.0).tolist()
    [[0.5, 0.0, -0.5, -0.0], [0.0, 1.0, -0.0, -1.0]]
    """
    values, vectors = np.linalg.eigh(moments)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(values))])
    filters = vectors / np.sqrt(np.maximum(values, 0.0) + eps)
    return np.concatenate([filters, -filters], axis=1)


def whitening_kernel(images: Iterable[np.ndarray], window: int, eps: float = EPS) -> np.ndarray:
    """Return the kernel of a whitening convolution, float32 (*window, C, 2 window^d C).

    Args:
        images: batches of the normalized training images, (N, *spatial, C) each.
        window: side of a patch.
        eps: see :func:`whitening_filters`.

    Raises:
        UsageError: there are no images, or they are smaller than a patch.

    >>> noise = np.random.default_rng(0).normal(size=(64, 8, 8, 3))
    >>> whitening_kernel([noise], window=2).shape
    (2, 2, 3, 24)
    """
    moments, dims = PatchMoments(window), 0
    for part in images:
        moments.add(part)
        dims = part.ndim - 2
    filters = whitening_filters(moments.mean(), eps)
    return filters.reshape(*(window,) * dims, -1, filters.shape[1]).astype(np.float32)


def whitened(params: Mapping[str, Any], kernel: Any) -> dict[str, Any]:
    """Return the parameters of a network with stem ``whiten`` after replacing its kernel.

    Args:
        params: as ``model.init`` returns them.
        kernel: the result of :func:`whitening_kernel`.
    """
    stem = params[STEM]
    return {**params, STEM: {**stem, WHITEN: {**stem[WHITEN], "kernel": kernel}}}
