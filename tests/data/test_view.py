from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.data.example import Example, Spec, encoded_spec
from resnet_jax.data.folder import load_folder
from resnet_jax.data.records import ArrayRecords, Subset
from resnet_jax.data.rng import CROP, generator
from resnet_jax.data.transform import Geometry
from resnet_jax.data.view import View
from resnet_jax.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
RECORDS = ArrayRecords(IMAGES, np.arange(5))


def test_stored_pixels_are_taken_together():
    view = View(Subset(RECORDS, np.array([3, 1])), Geometry(), training=True)
    assert view.stored
    np.testing.assert_array_equal(view.images(np.array([1, 0, 1])), IMAGES[[1, 3, 1]])


@pytest.mark.parametrize("training", [True, False])
def test_images_equal_the_geometry_applied_one_by_one(training):
    geometry = Geometry(4, "random_resized")
    view = View(RECORDS, geometry, training=training, seed=7)
    assert not view.stored
    assert view.shape == (4, 4, 3)
    for i, image in enumerate(view.images(np.arange(5), epoch=2)):
        rng = generator(7, CROP, 2, i)
        expected = geometry.train_image(IMAGES[i], rng) if training else geometry.eval_image(IMAGES[i])
        np.testing.assert_array_equal(image, expected)


def test_images_of_the_right_size_are_cropped_at_random_all_the_same():
    square = ArrayRecords(IMAGES[:, :6], np.arange(5))
    view = View(square, Geometry(6, "random_resized"), training=True)
    assert not view.stored
    assert (view.images(np.arange(5)) != square.images).any()
    assert (view.images(np.arange(5), epoch=1) != view.images(np.arange(5), epoch=2)).any()
    assert View(square, Geometry(6, "random_resized"), training=False).stored


def test_different_sizes_need_image_size(make_folder):
    make_folder({"a": 2})
    records = load_folder(str(make_folder({"b": 1}, size=(4, 9)))).splits["all"]
    view = View(records, Geometry(), training=True)
    with pytest.raises(
        DataError,
        match=r"b/000\.png is 4x9x3 but .*a/000\.png is 6x5x3 \(height.*set data\.image_size to bring all",
    ):
        view.images(np.arange(3))
    assert View(records, Geometry(5), training=True).images(np.arange(3)).shape == (3, 5, 5, 3)


class Mixed:
    """An RGB image and a grey one."""

    labels = np.array([0, 1], np.int32)

    def __len__(self) -> int:
        return 2

    @property
    def spec(self) -> Spec:
        return encoded_spec(3, self.labels)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": np.zeros((4, 4, 3 - 2 * index), np.uint8)}

    def describe(self, index: int) -> str:
        return f"image {index}"


def test_different_channels_are_named():
    view = View(Mixed(), Geometry(4), training=False)
    with pytest.raises(DataError, match=r"image 1 is 4x4x1 but image 0 is 4x4x3 .* same number of channels"):
        view.image(1)
