"""Set small weights to zero: masks by magnitude (Han et al. 2015, arXiv 1506.02626).

The network keeps its shape and gets no faster, but its file compresses better. ``optim.keep_zeros`` keeps the zeros
during training (:mod:`resnet_jax.training.sparsity`).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from resnet_jax.deploy.prune.choose import Scope
from resnet_jax.errors import UsageError
from resnet_jax.models.layout import like, unstack
from resnet_jax.training import roles


def magnitude_masks(params: Any, ratio: float, *, scope: Scope = "global", alive: Any = None) -> Any:
    """Return masks of the kernels: True where a weight is kept; None for other parameters.

    Args:
        params: parameters, in any layout.
        ratio: share of the kernels' weights to prune, in [0, 1); with ``alive``, of the remaining weights.
        scope: ``global``: the smallest weights of all kernels together; ``uniform``: this share of every kernel. The
            classifier's kernel is included.
        alive: earlier masks; weights that they prune stay pruned.

    Raises:
        UsageError: the ratio is out of range, or there are no kernels.

    >>> import jax.numpy as jnp
    >>> masks = magnitude_masks({"conv": {"kernel": jnp.asarray([1.0, -3.0, 0.5, 2.0])}, "head": {"bias": 0}}, 0.5)
    >>> masks["conv"]["kernel"].tolist(), masks["head"]["bias"] is None
    ([False, True, False, True], True)
    """
    if not 0 <= ratio < 1:
        raise UsageError(f"ratio must be the share of weights to prune, in [0, 1), got {ratio}")
    listed = unstack(params)
    is_kernel = jax.tree.map(lambda role: role in roles.KERNEL_ROLES, roles.roles(listed))
    before = jax.tree.map(lambda leaf: True, listed) if alive is None else unstack(alive)
    sizes = jax.tree.map(_size, listed, is_kernel, before, is_leaf=lambda node: node is None)
    kernels = [size for size in jax.tree.leaves(sizes) if size is not None]
    if not kernels:
        raise UsageError("there are no kernels to prune")
    whole = _threshold(np.concatenate([size.ravel() for size in kernels]), ratio) if scope == "global" else None

    def mask(size: Any) -> Any:
        if size is None:
            return None
        threshold = _threshold(size.ravel(), ratio) if whole is None else whole
        return (size > threshold) & (size >= 0)

    masks = jax.tree.map(mask, sizes, is_leaf=lambda node: node is None)
    return like(masks, params)


def masked(params: Any, masks: Any) -> Any:
    """Return parameters with zeros where a mask is False, in the layout of ``params``."""

    def one(mask: Any, leaf: Any) -> Any:
        return leaf if mask is None else np.where(mask, np.asarray(leaf), np.zeros((), np.asarray(leaf).dtype))

    return jax.tree.map(one, masks, params, is_leaf=lambda node: node is None)


def density(masks: Any) -> float:
    """Return the share of the kernels' weights that is kept."""
    leaves = jax.tree.leaves(masks)
    return sum(int(leaf.sum()) for leaf in leaves) / sum(leaf.size for leaf in leaves)


def _size(leaf: Any, is_kernel: bool, alive: Any) -> np.ndarray | None:
    """Return absolute weights, with -1 for those pruned earlier; None for leaves that are not kernels."""
    return np.where(alive, np.abs(np.asarray(leaf, np.float64)), -1.0) if is_kernel else None


def _threshold(sizes: np.ndarray, ratio: float) -> float:
    """Return the magnitude up to which weights are pruned: this share of the remaining ones (more if several are
    equal).
    """
    left = np.sort(sizes[sizes >= 0])
    gone = round(ratio * len(left))
    return float(left[gone - 1]) if gone else -0.5
