"""A recipe whose images were replaced by such of another kind says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from resnet_jax.data.records import ArrayRecords
from resnet_jax.data.split import Splits
from resnet_jax.data.transform import Geometry
from resnet_jax.runs.data import RunData
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.recipe_fit import MADE_FOR, misfit
from resnet_jax.runs.recipes import list_recipes, load_recipe

SOME = ArrayRecords(np.zeros((2, 2, 2, 3), np.uint8), np.arange(2))


def said(recipe: str, stored: int, seen: int | None = None, source: str = "folder:x") -> str | None:
    config = load_recipe(recipe)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
    seen = stored if seen is None else seen
    card = DatasetInfo(("a", "b"), (seen, seen, 3), (), (), {})
    return misfit(config, RunData(Splits(SOME, None, None), Geometry(), card, (stored, stored, 3)))


def test_every_recipe_says_what_it_was_made_for():
    sources = {load_recipe(name).data.source or "" for name in list_recipes()}
    assert set(MADE_FOR) == {one for one in sources if one == "digits" or one.startswith("tfds:")}  # images of classes
    assert {load_recipe(made.recipe).data.source for made in MADE_FOR.values()} == set(MADE_FOR)


@pytest.mark.parametrize(
    ("recipe", "stored", "seen", "parts"),
    [
        (
            "digits",
            224,
            224,
            ("made for 8x8 grey", "these are 224x224x3 images of 2 classes.", "15 epochs", "imagenet-res"),
        ),
        ("digits", 500, 8, ("500x500x3 images of 2 classes, brought to 8x8", "imagenet-resnet50")),
        ("digits", 32, 32, ("32x32x3 images", "recipe cifar10-resnet20 was made for 32x32 colour")),
        ("cifar10-resnet20", 300, 32, ("made for 32x32", "300x300x3", "brought to 32x32", "imagenet-resnet50")),
        ("imagenet-resnet50", 32, 224, ("224x224 photographs", "32x32x3", "brought to 224x224", "cifar10-resnet20")),
    ],
)
def test_other_images_than_the_recipe_was_made_for_are_named(recipe, stored, seen, parts):
    text = said(recipe, stored, seen)
    assert text is not None
    for part in (f"recipe {recipe} was made for", *parts, "choose model.name, data.image_size and train.length"):
        assert part in text


@pytest.mark.parametrize(
    ("recipe", "stored", "seen"),
    [
        ("digits", 8, 8),
        ("digits", 12, 12),
        ("cifar10-resnet20", 32, 32),
        ("cifar10-resnet20", 28, 28),
        ("imagenet-resnet50", 375, 224),
        ("imagenet-resnet50", 3000, 224),
    ],
)
def test_images_of_the_same_kind_are_not_spoken_of(recipe, stored, seen):
    assert said(recipe, stored, seen) is None


def test_the_recipes_own_images_are_not_spoken_of():
    assert said("digits", 500, source="digits") is None
    config = dataclasses.replace(load_recipe("digits"), recipe="mine")
    assert (
        misfit(config, RunData(Splits(SOME, None, None), Geometry(), DatasetInfo((), (99, 99, 3), (), (), {}))) is None
    )


def test_it_says_how_everything_is_chosen_for_the_data_instead():
    assert str(said("digits", 224)).endswith("; or leave it to resnet-jax train --data x, without a recipe")
    assert "--data tfds:mnist, without" in str(said("digits", 224, source="tfds:mnist"))
    assert "resnet-jax train" not in str(said("digits", 224, source="arrays"))
