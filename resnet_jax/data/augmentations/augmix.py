"""AugMix: several chains of operations on an image, randomly averaged with each other and the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Interval

from resnet_jax.data.augmentations.base import below, changed_where, unit
from resnet_jax.data.augmentations.policies import rand_magnitudes, rising_both
from resnet_jax.data.augmentations.policy import WORDS, Layer, Policy, layer_of
from resnet_jax.data.example import Spec
from resnet_jax.data.operations import Drawing, apply_chosen, operation_of
from resnet_jax.data.transforms import register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1

Array = Any
#: Levels of the magnitudes, and the maximum number of operations in a chain.
BINS, DEPTH = 10, 3


@register_transform("augmix")
@dataclass(frozen=True)
class AugMix(Policy):
    """Chains of one to three operations, averaged with the image: D. Hendrycks et al., AugMix (ICLR 2020).

    The operations are those of torchvision. Mixing weights are uniform, the paper's alpha of 1. The paper's loss on
    three versions of an image is not implemented. Images with masks or boxes are not supported.

    Attributes:
        severity: magnitudes are drawn from this many of the lowest of 10 levels.
        width: number of chains.
    """

    severity: Annotated[int, Interval(ge=1, le=10)] = 3
    width: AtLeast1 = 3
    name: ClassVar = "augmix"

    @property
    def count(self) -> int:
        """The maximum number of layers in a chain."""
        return DEPTH

    def layers(self, height: int, width: int) -> list[Layer]:
        """Return the layers of a chain, which are all alike."""
        table = {name: values[: self.severity] for name, values in augmix_magnitudes(BINS, height, width).items()}
        return [layer_of([(name, 1.0) for name in table], list(table.values()))] * DEPTH

    def word_count(self) -> int:
        """Return how many random words an example uses."""
        return 1 + self.width * (2 + DEPTH * WORDS)

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Average the chains."""
        if others := [name for name in fields if name != "image"]:
            raise UsageError(f"augmix averages images that moved differently, and there is {others[0]}: leave it out")
        image = fields["image"]
        layer = self.layers(*image.shape[:2])[0]
        rows, drawing = [operation_of(name) for name in layer.operations], Drawing(self.interpolation, self.fill)
        own = words[1:].reshape(self.width, -1)

        def chain(words: Array) -> Array:
            found, depth = {"image": image}, 1 + below(xp, words[1], DEPTH)
            for place in range(DEPTH):
                part = words[2 + WORDS * place : 2 + WORDS * (place + 1)]
                which, magnitude, _ = layer.decide(xp, part, part[0])

                def change(
                    fields: dict[str, Array], which: Array = which, magnitude: Array = magnitude
                ) -> dict[str, Array]:
                    return apply_chosen(xp, fields, spec, rows, which, magnitude, drawing)

                found = changed_where(xp, place < depth, found, change)
            return found["image"]

        if xp is np:
            chains = np.stack([chain(words) for words in own])
        else:
            import jax

            chains = jax.vmap(chain)(own)
        exponential = -xp.log1p(-unit(xp, own[:, 0]))  # of which shares are uniform on the simplex
        mixed = unit(xp, words[0])
        shares = mixed * exponential / xp.maximum(exponential.sum(), xp.float32(1e-12))
        total = (1 - mixed) * image.astype(xp.float32)
        for place in range(self.width):
            total = total + shares[place] * chains[place].astype(xp.float32)
        return {**fields, "image": xp.clip(total, 0, 255).astype(xp.uint8)}


def augmix_magnitudes(bins: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Return the magnitudes (bins, 2) of torchvision's AugMix, for every operation in its order."""
    table = rand_magnitudes(bins, height, width)
    bits = 4 - np.round(np.arange(bins) / ((bins - 1) / 4))
    first = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "posterize", "solarize", "autocontrast")
    table |= {
        "translate_x": np.trunc(rising_both(width / 3, bins)),
        "translate_y": np.trunc(rising_both(height / 3, bins)),
        "posterize": np.stack([bits, bits], axis=-1),
    }
    order = (*first, "equalize", "brightness", "saturation", "contrast", "sharpness")
    return {name: table[name] for name in order}
