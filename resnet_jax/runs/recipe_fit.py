"""Whether a shipped recipe is used for images of another kind than it was made for; this is reported, not rejected."""

from __future__ import annotations

import dataclasses

from resnet_jax.data.source import ARRAYS
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData
from resnet_jax.runs.recipes import list_recipes, load_recipe


@dataclasses.dataclass(frozen=True)
class MadeFor:
    """The images of recipes: a description, their side in pixels as the network sees them, and one recipe for them."""

    images: str
    side: int
    recipe: str


#: By the source that a recipe names.
MADE_FOR = {
    "digits": MadeFor("8x8 grey images of 10 digits", 8, "digits"),
    "tfds:mnist": MadeFor("28x28 grey images of 10 digits (MNIST)", 28, "mnist"),
    "tfds:fashion_mnist": MadeFor("28x28 grey images of 10 kinds of clothes (Fashion-MNIST)", 28, "fashion-mnist"),
    "tfds:cifar10": MadeFor("32x32 colour images of 10 classes (CIFAR-10)", 32, "cifar10-resnet20"),
    "tfds:cifar100": MadeFor("32x32 colour images of 100 classes (CIFAR-100)", 32, "cifar100-preact164"),
    "tfds:imagenet2012": MadeFor("224x224 photographs of 1,000 classes (ImageNet)", 224, "imagenet-resnet50"),
}
#: Sources whose recipe is suggested for other images.
_SUGGESTED = ("digits", "tfds:cifar10", "tfds:imagenet2012")
ENOUGH = 2.0
"""Ratio of sides from which images count as a different kind."""
PHOTOGRAPH = 100
"""Side from which images count as photographs, which recipes for small images would shrink or see only in part."""


def misfit(config: RunConfig, images: RunData) -> str | None:
    """Return a message if the images of a shipped recipe were replaced by ones of a very different size; else None.

    Args:
        config: configuration of the run.
        images: its images.
    """
    own = _own_source(config)
    made = None if own is None else MADE_FOR.get(own)
    if made is None or config.data.source == own:
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
    better = MADE_FOR[min(_SUGGESTED, key=lambda name: abs(MADE_FOR[name].side - min(stored, 224)))]
    other = f"recipe {better.recipe} was made for {better.images}; or " if better.side != made.side else ""
    return (
        f"recipe {config.recipe} was made for {made.images}; these are {shape} images of "
        f"{len(images.card.class_names):,} "
        f"classes{brought}. Its network, size, rate and length of {load_recipe(config.recipe).train.length} may suit "
        f"them badly: {other}choose model.name, data.image_size and train.length yourself{elsewhere(config)}"
    )


def elsewhere(config: RunConfig) -> str:
    """Return how to have everything chosen for the data, if it is at a path; empty for the recipe's own data."""
    kind, _, location = config.data.place.partition(":")
    own = _own_source(config)
    if own not in MADE_FOR or config.data.place == ARRAYS or config.data.source == own:
        return ""
    place = location if kind in ("folder", "npz", "manifest") else config.data.place
    return f"; or leave it to resnet-jax train --data {place}, without a recipe"


def _own_source(config: RunConfig) -> str | None:
    """Return the source in the shipped recipe of a configuration; None if there is no such recipe."""
    return load_recipe(config.recipe).data.source if config.recipe in list_recipes() else None
