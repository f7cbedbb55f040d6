"""Sounds (samples, channels): random noise level and random loudness. To shift in time use ``random_crop(samples)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from resnet_jax.data.example import Spec
from resnet_jax.data.transforms import Needs, register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import Share


@dataclass(frozen=True)
class _Decibels:
    """Something drawn uniformly between two levels for every example.

    Attributes:
        low: lowest level, in decibels.
        high: highest level.
    """

    low: float
    high: float
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "any"
    mixes: ClassVar = False
    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UsageError(f"{self.name}: low {self.low:g} is above high {self.high:g}")

    def _drawn(self, keys: Any, inputs: Any) -> Any:
        """Return an amplitude factor for every example, (n, 1, ...)."""
        import jax
        import jax.numpy as jnp

        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise UsageError(f"{self.name} takes float inputs, and these are {inputs.dtype}: leave it out")
        level = jax.vmap(lambda key: jax.random.uniform(key, (), inputs.dtype, self.low, self.high))(keys)
        return (10.0 ** (level / 20)).reshape(-1, *(1,) * (inputs.ndim - 1))


@register_transform("gain")
@dataclass(frozen=True)
class Gain(_Decibels):
    """Amplifies every example by a level drawn uniformly in decibels, such as gain(-12, 12), for any rank.

    Attributes:
        low: lowest level, in decibels.
        high: highest level.
    """

    stream: ClassVar = 0x6761696E
    name: ClassVar = "gain"

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Scale every example."""
        return {**batch, "image": batch["image"] * self._drawn(keys, batch["image"])}


@register_transform("noise")
@dataclass(frozen=True)
class Noise(_Decibels):
    """Adds normal noise at a signal-to-noise ratio drawn uniformly in decibels, such as noise(10, 40).

    Attributes:
        low: lowest signal-to-noise ratio, in decibels.
        high: highest ratio.
        probability: probability that an example gets noise.
    """

    probability: Share = 1.0
    stream: ClassVar = 0x6E6F6973
    name: ClassVar = "noise"

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Add noise to every example."""
        import jax
        import jax.numpy as jnp

        inputs = batch["image"]
        level, normal, chance = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
        power = jnp.square(inputs).mean(axis=tuple(range(1, inputs.ndim)), keepdims=True)
        noise = jax.vmap(lambda key: jax.random.normal(key, inputs.shape[1:], inputs.dtype))(normal)
        noisy = inputs + jnp.sqrt(power) / self._drawn(level, inputs) * noise
        chosen = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(chance) < self.probability
        return {**batch, "image": jnp.where(chosen.reshape(-1, *(1,) * (inputs.ndim - 1)), noisy, inputs)}
