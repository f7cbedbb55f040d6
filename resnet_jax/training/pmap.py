"""Compatibility mode: the same step under ``jax.pmap``, for code that still keeps a leading device axis.

``jit`` with shardings (:mod:`resnet_jax.training.placement`) is the main path. This gives the same numbers: the
gradients are averaged and the batch statistics are global, so the network must be built with ``axis_name=DATA_AXIS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.training.placement import DATA_AXIS


def pmap_train_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Map a step made with ``make_train_step(..., axis_name=DATA_AXIS)`` over the local devices."""
    return jax.pmap(step, axis_name=DATA_AXIS, donate_argnums=(0,))


def replicate(tree: Any, devices: int | None = None) -> Any:
    """Give every leaf a leading device axis."""
    n = devices or jax.local_device_count()
    return jax.tree.map(lambda a: jnp.broadcast_to(a[None], (n, *a.shape)), tree)


def unreplicate(tree: Any) -> Any:
    """Return the first device's copy."""
    return jax.tree.map(lambda a: a[0], tree)


def split_batch(batch: Mapping[str, np.ndarray], devices: int | None = None) -> dict[str, np.ndarray]:
    """Reshape every array from ``(N, ...)`` to ``(devices, N / devices, ...)``.

    Raises:
        UsageError: if the batch cannot be shared equally.
    """
    n = devices or jax.local_device_count()
    size = len(next(iter(batch.values())))
    if size % n:
        raise UsageError(f"a batch of {size} cannot be shared equally by {n} devices")
    return {name: value.reshape(n, size // n, *value.shape[1:]) for name, value in batch.items()}
