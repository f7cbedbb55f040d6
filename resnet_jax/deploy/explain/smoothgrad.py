"""SmoothGrad: the gradient with respect to the image, averaged over noisy copies of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from resnet_jax.deploy.explain.forward import input_gradient
from resnet_jax.deploy.explain.settings import NOISE, SAMPLES
from resnet_jax.deploy.explain.targets import as_target
from resnet_jax.errors import UsageError


@functools.partial(jax.jit, static_argnames=("model", "samples"))
def smooth_grad(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "n *sides c"],
    target: Any,
    key: Key[Array, ""],
    *,
    samples: int = SAMPLES,
    noise: float = NOISE,
) -> Float[Array, "n *sides c"]:
    r"""Return the mean gradient of the score over noisy copies of every image.

    .. math:: \tfrac1n \sum_{s=1}^n \nabla f(x + \epsilon_s), \qquad
              \epsilon_s \sim \mathcal N\big(0, (\mathrm{noise} \cdot (\max x - \min x))^2\big)

    D. Smilkov et al. 2017, *SmoothGrad: removing noise by adding noise* (arXiv 1706.03825). With one sample and noise 0
    it is the plain gradient (K. Simonyan et al. 2013, arXiv 1312.6034).

    Args:
        model: the network.
        variables: its variables.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        key: PRNG key of the noise.
        samples: number of noisy copies.
        noise: standard deviation as a fraction of the range of the image's values; the paper found 0.1 to 0.2 best.

    Raises:
        UsageError: fewer than 1 sample.
    """
    if samples < 1:
        raise UsageError(f"SmoothGrad needs 1 sample or more, got {samples}")
    target = as_target(target)
    images = images.astype(jnp.float32)
    axes = tuple(range(1, images.ndim))
    deviation = noise * (images.max(axis=axes, keepdims=True) - images.min(axis=axes, keepdims=True))

    def add(total: Array, key: Array) -> tuple[Array, None]:
        noisy = images + deviation * jax.random.normal(key, images.shape, jnp.float32)
        return total + input_gradient(model, variables, noisy, target)[1], None

    total, _ = jax.lax.scan(add, jnp.zeros_like(images), jax.random.split(key, samples))
    return total / samples
