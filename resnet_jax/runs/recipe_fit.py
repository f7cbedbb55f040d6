"""Whether a shipped recipe is used for images of another kind than those it was made for; said then, not refused."""

from __future__ import annotations

import dataclasses

from resnet_jax.data.source import ARRAYS
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData
from resnet_jax.runs.recipes import load_recipe


@dataclasses.dataclass(frozen=True)
class MadeFor:
    """The images of a recipe: in words, and their side in pixels as the network sees them."""

    images: str
    side: int


MADE_FOR = {
    "digits": MadeFor("8x8 grey images of 10 digits", 8),
    "cifar10-adam-10ep": MadeFor("32x32 colour images of 10 classes (CIFAR-10)", 32),
    "cifar10-resnet20": MadeFor("32x32 colour images of 10 classes (CIFAR-10)", 32),
    "imagenet-resnet50": MadeFor("224x224 photographs of 1,000 classes (ImageNet)", 224),
}
ENOUGH = 2.0
"""Ratio of sides from which images count as of another kind."""
PHOTOGRAPH = 100
"""Side from which images are photographs, which recipes for small images would shrink or see in pieces."""


def misfit(config: RunConfig, images: RunData) -> str | None:
    """Return what to say when the images of a shipped recipe were replaced by such of another size; None if nothing.

    Args:
        config: of the run.
        images: its images.
    """
    made = MADE_FOR.get(config.recipe)
    if made is None or config.data.source == load_recipe(config.recipe).data.source:
        return None
    if len(images.card.image_shape) != 3:
        return (
            f"recipe {config.recipe} was made for {made.images}; these are "
            f"{'x'.join(str(side) for side in images.card.image_shape)}: its network, rate and epochs may suit them "
            f"badly{elsewhere(config)}"
        )
    height, width, _ = images.card.image_shape
    seen = min(height, width)
    stored = seen if images.stored_shape is None else min(images.stored_shape[:2])
    shrunk = made.side < PHOTOGRAPH <= stored
    if max(seen / made.side, made.side / min(seen, stored)) < ENOUGH and not shrunk:
        return None
    shape = "x".join(str(side) for side in images.stored_shape or images.card.image_shape)
    brought = "" if images.stored_shape == images.card.image_shape else f", brought to {height}x{width}"
    better = min(MADE_FOR, key=lambda name: (abs(MADE_FOR[name].side - min(stored, 224)), name == "cifar10-adam-10ep"))
    other = f"recipe {better} was made for {MADE_FOR[better].images}; or " if better != config.recipe else ""
    return (
        f"recipe {config.recipe} was made for {made.images}; these are {shape} images of "
        f"{len(images.card.class_names):,} "
        f"classes{brought}. Its network, size, rate and length of {load_recipe(config.recipe).train.length} may suit "
        f"them badly: {other}choose model.name, data.image_size and train.length yourself{elsewhere(config)}"
    )


def elsewhere(config: RunConfig) -> str:
    """Say how all of it is chosen for the data, where they lie at a path; empty for the recipe's own data."""
    kind, _, location = config.data.place.partition(":")
    made = MADE_FOR.get(config.recipe)
    if made is None or config.data.place == ARRAYS or config.data.source == load_recipe(config.recipe).data.source:
        return ""
    place = location if kind in ("folder", "npz", "manifest") else config.data.place
    return f"; or leave it to resnet-jax train --data {place}, without a recipe"
