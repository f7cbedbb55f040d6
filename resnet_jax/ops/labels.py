"""Class labels as rows of targets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Integer


def one_hot(labels: Integer[Array, " n"], classes: int) -> Float32[Array, "n classes"]:
    """Return a row for each label; a label outside the classes has a row of NaN.

    `jax.nn.one_hot` returns a row of zeros for it, for which cross-entropy is 0 without a gradient: the example would
    be ignored silently. It also counts the classes in the labels' dtype, so that with uint8, class 300 equals class 44.

    >>> one_hot(jnp.array([1, -1, 3]), 3).tolist()
    [[0.0, 1.0, 0.0], [nan, nan, nan], [nan, nan, nan]]
    """
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    return jnp.where(in_range(labels, classes)[:, None], jax.nn.one_hot(labels, classes, dtype=jnp.float32), jnp.nan)


def in_range(labels: Integer[Array, " n"], classes: int) -> Bool[Array, " n"]:
    """Return whether each label is one of the classes 0..K-1."""
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    return (labels >= 0) & (labels < classes)
