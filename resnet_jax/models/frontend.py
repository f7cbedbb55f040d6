"""Parameter-free preprocessing of the input before the stem: standardization, log-mel spectrograms, one-hot encoding.

Front ends belong to the network, not to the data, so the network takes raw samples of any loudness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from resnet_jax import ops

if TYPE_CHECKING:
    from resnet_jax.models.config import ResNetConfig


def standardized(x: Float[Array, "n *spatial c"], axes: tuple[int, ...]) -> Float[Array, "n *spatial c"]:
    """Return ``x`` minus its mean, divided by its standard deviation, both over ``axes``. Constant inputs become 0.

    >>> standardized(jnp.array([[[1.0], [3.0]], [[2.0], [2.0]]]), (1,))[..., 0].tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = jnp.square(centred).mean(axis=axes, keepdims=True)
    least = jnp.asarray(jnp.finfo(x.dtype).tiny, x.dtype)
    return jnp.where(variance > least, centred * jax.lax.rsqrt(jnp.maximum(variance, least)), jnp.zeros_like(centred))


def masks_bands(config: ResNetConfig) -> bool:
    """Return whether training masks parts of the spectrograms and therefore needs a key."""
    return config.mel_time_mask + config.mel_band_mask > 0


def apply_frontend(
    config: ResNetConfig, x: Float[Array, "n *spatial c"], key: Key[Array, ""] | None
) -> Float[Array, "n *out f"]:
    """Return what the stem sees, in float32 or wider.

    Args:
        config: the network's choices.
        x: inputs.
        key: for the masks; None applies no masks.
    """
    x = x.astype(ops.at_least_float32(x.dtype))
    if config.frontend == "standardize":
        return standardized(x, tuple(range(1, x.ndim - 1)))
    if config.frontend == "one_hot":
        return jax.nn.one_hot(jnp.round(x[..., 0]).astype(jnp.int32), config.symbols, dtype=x.dtype)
    mel = ops.log_mel(x, rate=config.mel_rate, window=config.mel_window, hop=config.mel_hop, bands=config.mel_bands)
    mel = standardized(mel, (1, 2))
    if key is None:
        return mel
    for axis, most, own in zip(
        (1, 2), (config.mel_time_mask, config.mel_band_mask), jax.random.split(key), strict=True
    ):
        mel = _masked(mel, axis, most, own)
    return mel


def _masked(x: Array, axis: int, most: int, key: Key[Array, ""]) -> Array:
    """Return ``x`` with a random span of 0 to ``most`` positions along an axis set to 0 in every example."""
    size = x.shape[axis]
    drawn = ops.draw_rows(lambda rows: jax.random.uniform(key, (rows, 2), jnp.float32), len(x))
    width = jnp.floor(drawn[:, :1] * (min(most, size) + 1))
    start = jnp.floor(drawn[:, 1:] * (size - width + 1))
    at = jnp.arange(size, dtype=jnp.float32)[None]
    inside = (at >= start) & (at < start + width)
    shape = (len(x), *(size if other == axis else 1 for other in range(1, x.ndim)))
    return jnp.where(inside.reshape(shape), jnp.zeros((), x.dtype), x)
