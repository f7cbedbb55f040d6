from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.data import stats
from resnet_jax.data.folder import load_folder
from resnet_jax.data.records import ArrayRecords, Subset
from resnet_jax.data.stats import channel_stats, check_normalization
from resnet_jax.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 200, (700, 3, 5, 3), np.uint8)
RECORDS = ArrayRecords(IMAGES, np.arange(700))


def check(found, images):
    mean, std = found
    x = images.reshape(-1, images.shape[-1]) / 255
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, x.std(0), rtol=1e-12)
    assert mean.dtype == std.dtype == np.float64


def test_arrays_are_counted_whole():
    check(channel_stats(RECORDS), IMAGES)
    check(channel_stats(Subset(RECORDS, np.arange(0, 700, 7))), IMAGES[::7])


def test_a_sample_is_evenly_spaced():
    check(channel_stats(RECORDS, max_examples=100), IMAGES[::7])
    check(channel_stats(RECORDS, max_examples=10_000), IMAGES)


def test_folders_are_read_one_by_one_and_sampled(make_folder, monkeypatch):
    make_folder({"a": 3})
    records = load_folder(str(make_folder({"b": 3}, size=(2, 9)))).splits["all"]
    pixels = [make_folder.pixels[records.describe(i)].reshape(-1, 3) for i in range(6)]
    check(channel_stats(records), np.concatenate(pixels))
    monkeypatch.setattr(stats, "SAMPLE", 2)
    check(channel_stats(records), np.concatenate([pixels[0], pixels[3]]))


def test_no_cancellation_for_a_bright_image_with_one_dark_pixel():
    images = np.full((1000, 10, 10, 1), 255, np.uint8)
    images[0, 0, 0] = 254
    _, std = channel_stats(ArrayRecords(images, np.arange(1000)))
    assert std[0] == pytest.approx(np.sqrt(1e-5 * (1 - 1e-5)) / 255, rel=1e-9)


def test_a_constant_channel_has_deviation_one():
    mean, std = channel_stats(ArrayRecords(np.full((4, 2, 2), 51, np.uint8), np.arange(4)))
    assert (mean[0], std[0]) == (pytest.approx(0.2), 1.0)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((123.675,), (58.395,), "data.mean 0.485 and data.std 0.229"),
        ((103.53,), (1.0,), "data.mean 0.406 and data.std 0.003922"),
        ((0.5,), (58.0,), "data.std 0.2275"),
        ((float("nan"),), (0.25,), r"in \[0, 1\]"),
        ((0.5,), (float("nan"),), "std must be positive"),
        ((0.5,), (float("inf"),), "std must be positive"),
        ((-0.1,), (0.25,), r"in \[0, 1\]"),
        ((0.5,), (0.0,), "std must be positive"),
        ((0.5,), (-0.2,), "std must be positive"),
        ((0.5, 0.5), (0.2,), "same number of channels"),
    ],
)
def test_normalization_off_the_scale_is_refused(mean, std, message):
    with pytest.raises(UsageError, match=message) as error:
        check_normalization(mean, std)
    if not all(value >= 0 for value in (*mean, *std)) or 0.0 in std:
        assert "255" not in str(error.value).replace("x / 255", "")


def test_normalization_of_other_values_than_pixels_may_be_any():
    check_normalization((-300.0, 4000.0), (900.0, 0.5), dtype="float32")
    for mean, std, message in (((0.0,), (0.0,), "std must be positive"), ((float("nan"),), (1.0,), "mean finite")):
        with pytest.raises(UsageError, match=message):
            check_normalization(mean, std, dtype=None)


def test_normalization_in_range_is_taken():
    check_normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channels=3)
    check_normalization((0.0,), (1.0,))
    check_normalization((0.0,), (1 / 255,))
    check_normalization((), (), channels=3)
    with pytest.raises(ValueError, match="one value a channel, 3"):
        check_normalization((0.5,), (0.5,), channels=3)
