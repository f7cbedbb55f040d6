"""The function of a run's network that is exported, and inputs to test it with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from resnet_jax.data.augment import downscaled, normalize
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops import resize_bilinear
from resnet_jax.runs.trained import TrainedRun, require_normalization, require_one_input
from resnet_jax.weights.fold import fold_batch_norm


@dataclasses.dataclass(frozen=True)
class NetworkFunction:
    """A network in evaluation mode, float32, from its input to its outputs, as a pure function ``(variables, x)``.

    Attributes:
        model: the network.
        variables: its variables.
        sides: sides of an input.
        stored: dtype of the stored values, such as uint8.
        mean: per channel, of x / 255 for uint8, otherwise of x; empty if unknown.
        std: the same for the standard deviation.
        downscale: the network sees inputs at 1 / downscale of their sides.
        pixels: whether it takes stored values; otherwise normalized ones.
    """

    model: ResNet
    variables: dict[str, Any]
    sides: tuple[int, ...]
    stored: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    downscale: int
    pixels: bool

    @classmethod
    def of(cls, trained: TrainedRun, *, fold: bool, pixels: bool) -> NetworkFunction:
        """Return the function of a run.

        Args:
            trained: the run.
            fold: whether to fold batch norms into the preceding convolutions.
            pixels: whether the function takes stored values.

        Raises:
            UsageError: a network of two towers, or pixels without a known normalization.
        """
        require_one_input(trained)
        if pixels:
            require_normalization(trained)
        card, built = trained.card, trained.model.config
        model = ResNet(dataclasses.replace(built, dtype="float32", param_dtype="float32", remat="none"))
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), trained.variables)
        if fold and built.norm == "batch":
            model, variables = fold_batch_norm(model, variables)
        sides = tuple(card.image_shape[:-1])
        return cls(model, variables, sides, card.image_dtype, tuple(card.mean), tuple(card.std), card.downscale, pixels)

    @property
    def channels(self) -> int:
        """Channels of an input."""
        return self.model.config.in_channels

    @property
    def dtype(self) -> str:
        """Dtype of an input."""
        return self.stored if self.pixels else "float32"

    def __call__(self, variables: dict[str, Any], x: Shaped[Array, "n *spatial c"]) -> Any:
        """Return the outputs: an array (N, ...), or a dict of such arrays."""
        images = normalize(x, self.mean, self.std) if self.pixels else x
        outputs: Any = self.model.apply(variables, downscaled(images, self.downscale), train=False)
        if self.downscale > 1 and not isinstance(outputs, dict) and outputs.ndim == x.ndim:
            return resize_bilinear(outputs, x.shape[1:-1])
        return outputs

    def examples(self, count: int, sides: Sequence[int] | None = None) -> np.ndarray:
        """Return ``count`` random inputs, always the same: noise with the mean and deviation of the network's
        images.
        """
        config, shape = self.model.config, (count, *(sides or self.sides), self.channels)
        generator = np.random.default_rng(count)
        if config.frontend == "one_hot":
            return generator.integers(0, config.symbols, shape).astype(self.dtype)
        noise = generator.normal(size=shape)
        if not self.pixels:
            return noise.astype(np.float32)
        noise = (noise * self.std + self.mean) * (255.0 if self.stored == "uint8" else 1.0)
        if np.issubdtype(self.stored, np.integer):
            limits = np.iinfo(self.stored)
            noise = np.clip(np.round(noise), limits.min, limits.max)
        return noise.astype(self.stored)
