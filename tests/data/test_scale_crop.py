"""Crops at random scales: shrunk as JAX's antialiased resizing, masks and boxes along, void and black beyond."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import downscaled
from resnet_jax.data.example import Field
from resnet_jax.data.on_device import prepare_with
from resnet_jax.data.transforms import parse_transform
from resnet_jax.errors import UsageError

SHAPE = (12, 20)
SPEC = {
    "image": Field((*SHAPE, 3), "uint8", "image"),
    "segmentation": Field(SHAPE, "uint8", "mask"),
    "boxes": Field((1, 4), "float32", "boxes"),
    "box_label": Field((1,), "int32", "array"),
}


def cropped(text, count=16):
    rng = np.random.default_rng(0)
    masks = np.zeros((count, *SHAPE), np.uint8)
    masks[:, 3:9, 5:17] = 1
    batch = {
        "image": rng.integers(1, 255, (count, *SHAPE, 3), np.uint8),
        "segmentation": masks,
        "boxes": np.tile(np.array([[[3, 5, 9, 17]]], np.float32), (count, 1, 1)),
        "box_label": np.zeros((count, 1), np.int32),
        "index": np.arange(count),
        "epoch": np.zeros(count, np.int32),
    }
    prepare = prepare_with([parse_transform(text)], (0.0,) * 3, (1.0,) * 3, spec=SPEC)
    found = jax.jit(prepare)(jax.random.key(0), {name: jnp.asarray(values) for name, values in batch.items()})
    return batch, {name: np.asarray(values) for name, values in found.items()}


def test_at_scale_one_the_whole_image_is_itself():
    batch, found = cropped("random_scale_crop(12, 20, low=1, high=1)")
    np.testing.assert_allclose(found["image"] * 255, batch["image"], atol=1e-3)
    np.testing.assert_array_equal(found["segmentation"], batch["segmentation"])
    np.testing.assert_array_equal(found["boxes"], batch["boxes"])


def test_half_the_image_is_averaged_as_jax_resizes_it():
    batch, found = cropped("random_scale_crop(6, 10, low=0.5, high=0.5)")
    images = batch["image"].astype(np.float32)
    wanted = jax.image.resize(images, (len(images), 6, 10, 3), "linear", antialias=True)
    np.testing.assert_allclose(found["image"] * 255, wanted, atol=0.51)
    np.testing.assert_array_equal(found["segmentation"], batch["segmentation"][:, 1::2, 1::2])


def test_parts_keep_pixels_masks_and_boxes_together_and_beyond_is_no_class():
    _, found = cropped("random_scale_crop(16, 16, low=0.6, high=1.5)")
    beyond = found["segmentation"] == 255
    assert 0.05 < beyond.mean() < 0.6
    np.testing.assert_array_equal((found["image"] == 0).all(-1), beyond)
    assert len({found["segmentation"][row].tobytes() for row in range(16)}) > 12
    for mask, (box,), (label,) in zip(found["segmentation"], found["boxes"], found["box_label"], strict=True):
        rows, columns = np.nonzero(mask == 1)
        if label == 0:
            around = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            np.testing.assert_allclose(box, around, atol=1.01)


def test_it_is_said_what_cannot_be():
    with pytest.raises(UsageError, match="low 2 is above high 1"):
        parse_transform("random_scale_crop(8, 8, low=2, high=1)")
    with pytest.raises(UsageError, match="within the step: leave where out"):
        parse_transform("random_scale_crop(8, 8, where='host')")


def test_downscaling_is_the_mean_of_blocks_and_needs_sides_that_divide():
    images = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    blocks = [[images[:, r : r + 2, c : c + 2].mean(axis=(1, 2)) for c in (0, 2)] for r in (0, 2, 4)]
    np.testing.assert_allclose(downscaled(jnp.asarray(images), 2), np.array(blocks).transpose(2, 0, 1, 3), atol=1e-6)
    with pytest.raises(UsageError, match=r"data\.downscale 4 does not divide the sides of inputs of 6x4"):
        downscaled(jnp.asarray(images), 4)
