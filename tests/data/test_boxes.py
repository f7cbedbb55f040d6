"""Boxes that are moved with their image, and what becomes of those outside."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from resnet_jax.data.boxes import NO_BOX, without_empty
from resnet_jax.data.example import spec_of
from resnet_jax.data.transform import Geometry

SPEC = spec_of({"image": np.zeros((40, 60, 3), np.uint8), "boxes": np.zeros((3, 4)), "box_label": np.zeros(3, int)})


def example(boxes):
    image = np.zeros((40, 60, 3), np.uint8)
    return {"image": image, "boxes": np.array(boxes, np.float32), "box_label": np.array([4, 5, NO_BOX], np.int32)}


def test_boxes_of_a_side_below_a_pixel_become_padding():
    stored = example([[0, 0, 10, 10], [5, 5, 9, 5.5], [0, 0, 0, 0]])
    found = without_empty(stored, SPEC)
    assert found["box_label"].tolist() == [4, NO_BOX, NO_BOX]
    assert found["boxes"].tolist() == [[0, 0, 10, 10], [0] * 4, [0] * 4]
    assert stored["box_label"][1] == 5  # what was given stays
    assert without_empty(found, SPEC)["box_label"].tolist() == [4, NO_BOX, NO_BOX]


def test_a_field_of_another_meaning_is_left_alone():
    boxes = np.zeros((3, 4), np.float32)
    stored = {**example(np.zeros((3, 4))), "other": boxes}
    assert without_empty(stored, {**SPEC, "other": spec_of({"other": boxes})["other"]})["other"] is boxes


@given(st.integers(0, 10_000))
def test_after_a_random_crop_a_box_has_its_label_and_a_part_of_the_object_or_neither(index):
    stored = example([[2, 3, 12, 9], [30, 40, 39, 58], [0, 0, 0, 0]])
    stored["image"][2:12, 3:9] = 255
    geometry = Geometry(32, "random_resized")
    found = geometry.train_example(stored, SPEC, (0, 0, index))
    sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
    assert ((found["box_label"] == NO_BOX) == (sides == 0).all(axis=1)).all()
    assert (found["boxes"] >= 0).all()
    assert (found["boxes"] <= 32).all()
    top, left, bottom, right = found["boxes"][0].round().astype(int)
    inside = found["image"][top:bottom, left:right]
    if found["box_label"][0] == 4 and inside.size:
        assert inside.mean() > 100
    elif found["box_label"][0] == NO_BOX:
        assert (found["image"] > 250).mean() < 0.05


def test_a_resize_of_the_whole_image_loses_no_true_box():
    """A box of a pixel is half of one in an image of half the sides; it is still there to be found."""
    example = {"image": np.zeros((8, 8, 3), np.uint8), "boxes": np.array([[2, 3, 3, 4]], np.float32),
               "box_label": np.array([5], np.int32)}  # fmt: skip
    geometry, spec = Geometry(resize=(4, 4)), spec_of(example)
    shown = geometry.eval_example(example, spec)
    assert shown["box_label"].tolist() == [5]
    assert shown["boxes"].tolist() == [[1.0, 1.5, 1.5, 2.0]]
    assert geometry.train_example(example, spec, (0, 0, 0))["box_label"].tolist() == [NO_BOX]
