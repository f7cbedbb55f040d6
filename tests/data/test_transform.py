from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data.config import DataConfig
from resnet_jax.data.rng import CROP, generator
from resnet_jax.data.transform import Geometry, random_resized_box, resize
from resnet_jax.errors import UsageError

SIDES = st.integers(1, 90)


def ramp(height: int, width: int, channels: int = 3) -> np.ndarray:
    """An image whose first channel is its row and second its column, scaled to 0..200."""
    y, x = np.mgrid[:height, :width]
    planes = (y * 200 / max(height - 1, 1), x * 200 / max(width - 1, 1), 0 * y)
    return np.stack(planes[:channels], -1).astype(np.uint8)


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(1, 40), st.sampled_from([1, 3]), st.sampled_from(["none", "random_resized"]))
def test_every_image_gets_the_size_asked_for(height, width, size, channels, train):
    geometry, image = Geometry(size, train), ramp(height, width, channels)
    for result in (geometry.eval_image(image), geometry.train_image(image, generator(0, CROP, 0, 0))):
        assert result.shape == (size, size, channels)
        assert result.dtype == np.uint8
    assert geometry.keeps(image.shape, training=False) == (height == width == size)


@pytest.mark.parametrize("train", ["none", "random_resized"])
def test_an_image_of_the_right_size_is_untouched_in_evaluation(train):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert Geometry(32, train).eval_image(image) is image


def test_without_a_size_images_stay_as_stored():
    image = ramp(7, 5)
    assert Geometry().eval_image(image) is image
    assert Geometry().train_image(image, generator(0, CROP, 0, 0)) is image
    assert Geometry().keeps((7, 5, 3), training=True)


@pytest.mark.parametrize(("train", "seen"), [("none", 1.0), ("random_resized", 0.875)])
def test_evaluation_sees_the_centre_of_the_shorter_side(train, seen):
    """On a ramp the values at the border tell what was cut away: 200 * (1 - seen) / 2 on each side."""
    result = Geometry(56, train).eval_image(ramp(128, 256)).astype(float)
    cut_y, cut_x = 200 * (1 - seen) / 2, 200 * (1 - seen / 2) / 2
    assert result[0, :, 0].mean() == pytest.approx(cut_y, abs=3)
    assert result[-1, :, 0].mean() == pytest.approx(200 - cut_y, abs=3)
    assert result[:, 0, 1].mean() == pytest.approx(cut_x, abs=3)
    assert result[:, -1, 1].mean() == pytest.approx(200 - cut_x, abs=3)


def test_training_without_random_geometry_is_evaluation():
    image = ramp(40, 30)
    geometry = Geometry(16)
    np.testing.assert_array_equal(geometry.train_image(image, generator(0, CROP, 0, 0)), geometry.eval_image(image))


def test_shrinking_averages_areas_and_growing_interpolates():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    means = image.reshape(4, 2, 4, 3, 3).mean((1, 3))
    assert np.abs(resize(image, 4, 4) - means).max() <= 0.51
    grown = resize(np.array([[0, 100]], np.uint8)[..., None], 1, 4)
    assert grown.ravel().tolist() == [0, 25, 75, 100]  # bilinear, pixel centres at halves
    assert resize(image, 8, 12) is image


def test_the_centre_is_half_a_pixel_up_and_left_where_a_side_is_odd():
    image = np.arange(5 * 4, dtype=np.uint8).reshape(5, 4, 1)
    assert Geometry(2, eval_side=4).eval_image(image)[..., 0].tolist() == [[5, 6], [9, 10]]


@pytest.mark.parametrize("sides", [(375, 500), (500, 333), (46, 47), (33, 90), (232, 300), (30, 40)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_published_weights_see_what_torchvision_shows_them(sides, interpolation):
    """What Resize(size) and CenterCrop of torchvision do to a Pillow image: its formulas, and Pillow's own resize."""
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)
    size, side = 24, 31
    geometry = Geometry(size, "random_resized", eval_side=side, interpolation=interpolation)
    short, long = sorted(sides)
    new = {short: side, long: int(side * long / short)}
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    whole = np.asarray(Image.fromarray(image).resize((new[sides[1]], new[sides[0]]), filters[interpolation]))
    top, left = (round((new[each] - size) / 2.0) for each in sides)
    np.testing.assert_array_equal(geometry.eval_image(image), whole[top : top + size, left : left + size])
    assert geometry.train_image(image, generator(0, CROP, 0, 0)).shape == (size, size, 3)
    box = geometry.boxes_as_stored(np.array([[0.0, 0.0, size, size]]), sides)[0]
    scale = np.divide(sides, [new[each] for each in sides])
    np.testing.assert_allclose(
        box, [top * scale[0], left * scale[1], (top + size) * scale[0], (left + size) * scale[1]]
    )


def test_a_crop_larger_than_what_it_is_cut_from_is_refused():
    with pytest.raises(UsageError, match="shorter side of 20 pixels"):
        Geometry(24, eval_side=20)
    with pytest.raises(UsageError, match=r"data\.eval_side 20 is what data\.image_size is cut from"):
        DataConfig(image_size=24, eval_side=20)


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(0, 1000))
def test_box_lies_inside_and_has_allowed_area_and_ratio(height, width, index):
    top, left, h, w = random_resized_box(height, width, generator(0, CROP, 0, index))
    assert h > 0
    assert w > 0
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    if min(height, width) >= 40 and max(height, width) <= 1.3 * min(height, width):
        assert 0.08 * 0.85 <= h * w / (height * width) <= 1
        assert 0.75 * 0.9 <= w / h <= 4 / 3 * 1.1  # rounding to pixels


def test_box_is_random_in_area_ratio_and_place():
    """Moments over 4,000 draws in a square, against the rejection-free law where it holds."""
    boxes = np.array([random_resized_box(1000, 1000, generator(0, CROP, 0, i)) for i in range(4000)])
    top, left, h, w = boxes.T.astype(float)
    area = h * w / 1e6
    small = area < 0.7  # never rejected: both sides below sqrt(0.7 * 4/3) < 1
    log_ratio = np.log(w / h)[small]
    assert area[small].mean() == pytest.approx((0.08 + 0.7) / 2, abs=0.01)
    assert log_ratio.mean() == pytest.approx(0, abs=0.01)
    assert log_ratio.std() == pytest.approx(math.log(16 / 9) / math.sqrt(12), abs=0.005)
    for start, side in ((top, h), (left, w)):
        place = start[small] / (1000 - side[small])
        assert place.mean() == pytest.approx(0.5, abs=0.02)
        assert place.std() == pytest.approx(1 / math.sqrt(12), abs=0.01)


def test_box_falls_back_to_the_largest_centred_one():
    assert random_resized_box(100, 3, generator(0, CROP, 0, 0)) == (48, 0, 4, 3)
    assert random_resized_box(3, 100, generator(0, CROP, 0, 0)) == (0, 48, 3, 4)


def test_random_geometry_is_decided_by_the_generator_alone():
    image, geometry = ramp(60, 50), Geometry(24, "random_resized")
    first, again, other = (geometry.train_image(image, generator(0, CROP, 0, i)) for i in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_random_crop_shows_the_box_and_nothing_else():
    image = ramp(200, 200)
    top, left, h, w = random_resized_box(200, 200, generator(0, CROP, 0, 1))
    seen = Geometry(32, "random_resized").train_image(image, generator(0, CROP, 0, 1)).astype(float)
    scale = 200 / 199
    assert seen[0, :, 0].mean() == pytest.approx(top * scale, abs=h / 32 + 1)
    assert seen[-1, :, 0].mean() == pytest.approx((top + h) * scale, abs=h / 32 + 1)
    assert seen[:, 0, 1].mean() == pytest.approx(left * scale, abs=w / 32 + 1)
    assert seen[:, -1, 1].mean() == pytest.approx((left + w) * scale, abs=w / 32 + 1)


def test_bad_geometries():
    with pytest.raises(UsageError, match="geometry 'crop' is not known; use 'none' or 'random_resized'"):
        Geometry(32, "crop")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="random resized crops need image_size"):
        Geometry(train="random_resized")
    with pytest.raises(UsageError, match="image_size 0 must be at least 1"):
        Geometry(0)
