"""Option A, the parameter-free shortcut (He et al. 2016, section 3.3 and the CIFAR nets of section 4.2)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def subsample_and_pad(
    x: Float[Array, "n *spatial c"], *, stride: int, features: int, both_sides: bool = True
) -> Float[Array, "n *out f"]:
    """Take every ``stride``-th position starting at 0 and pad with zero channels.

    Half of the zeros go before the channels and half after, an odd one after. This is the layout of the widely used
    PyTorch CIFAR nets, so their weights fit. With ``both_sides=False`` all go after, as in fb.resnet.torch and Fixup's
    code: the counts are the same, but the weights are not interchangeable.

    Raises:
        ValueError: ``features`` is smaller than the number of channels of ``x``.

    >>> subsample_and_pad(jnp.ones((1, 3, 3, 2)), stride=2, features=4)[0, 0, 0].tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    missing = features - x.shape[-1]
    if missing < 0:
        raise ValueError(f"option A cannot reduce {x.shape[-1]} channels to {features}; use shortcut 'B' or 'C'")
    x = x[(slice(None), *(slice(None, None, stride),) * (x.ndim - 2))]
    before = missing // 2 if both_sides else 0
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, missing - before)])
