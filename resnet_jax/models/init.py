"""Weight initializers by name: the table behind ``init=`` and ``head_init=``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import initializers as _init
from jax.nn.initializers import Initializer

from resnet_jax.errors import unknown
from resnet_jax.models.choices import InitChoice

_TORCH_UNIFORM = _init.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def dirac(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """Return a kernel (*window, I, O) whose first I filters pass their inputs on; the rest are ``torch_uniform``.

    In a grouped convolution this applies to the first filters of each group. It is the partial identity of arXiv
    2404.00498, section 3.2, and PyTorch's ``dirac_`` on as many filters as there are inputs. The center of an even
    window is just past the middle.

    >>> kernel = dirac(jax.random.key(0), (3, 3, 1, 2))
    >>> kernel[:, :, 0, 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    *window, inputs, outputs = shape
    drawn = _TORCH_UNIFORM(key, shape, dtype)
    centre = tuple(side // 2 for side in window)
    passed = jnp.zeros(shape, dtype).at[centre].set(jnp.eye(inputs, outputs, dtype=dtype))
    return jnp.where(jnp.arange(outputs) < inputs, passed, drawn)


INITIALIZERS: dict[InitChoice, Initializer] = {
    # He et al. 2015, "Delving Deep into Rectifiers", eq. 14 (fan_out keeps the backward signal) and eq. 10 (fan_in)
    "kaiming_normal": _init.variance_scaling(2.0, "fan_out", "normal"),
    "kaiming_uniform": _init.variance_scaling(2.0, "fan_out", "uniform"),
    "kaiming_normal_fan_in": _init.variance_scaling(2.0, "fan_in", "normal"),
    "kaiming_uniform_fan_in": _init.variance_scaling(2.0, "fan_in", "uniform"),
    # Glorot & Bengio 2010, eq. 16
    "xavier_normal": _init.variance_scaling(1.0, "fan_avg", "normal"),
    "xavier_uniform": _init.variance_scaling(1.0, "fan_avg", "uniform"),
    "lecun_normal": _init.variance_scaling(1.0, "fan_in", "normal"),
    "orthogonal": _init.orthogonal(),
    "dirac": dirac,
    # U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for linear and convolution layers
    "torch_uniform": _TORCH_UNIFORM,
    "normal_0.01": _init.normal(0.01),
    "zeros": _init.zeros,
}


def initializer(name: InitChoice) -> Initializer:
    """Return the initializer called ``name``; fan-in and fan-out count the kernel window.

    Raises:
        UsageError: the name is not in :data:`INITIALIZERS`; the message suggests the nearest one.
    """
    try:
        return INITIALIZERS[name]
    except KeyError:
        raise unknown("initializer", name, INITIALIZERS) from None


def scaled(init: Initializer, factor: float) -> Initializer:
    """Return ``init`` with its values multiplied by ``factor``; 0 gives zeros."""
    if factor == 1.0:
        return init
    if factor == 0.0:
        return _init.zeros

    def scaled_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Any:
        return init(key, shape, dtype) * jnp.asarray(factor, dtype)

    return scaled_init
