from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from resnet_jax.data.resample import resample
from resnet_jax.errors import UsageError

SIDES = st.integers(1, 70)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(list(FILTERS)), st.integers(0, 1000))
def test_pixels_are_those_of_pillow(height, width, to_height, to_width, name, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    theirs = np.asarray(Image.fromarray(image).resize((to_width, to_height), FILTERS[name]))
    np.testing.assert_array_equal(resample(image, to_height, to_width, name), theirs)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_other_dtypes_are_resized_alike(name, dtype):
    image = np.random.default_rng(0).integers(90, 160, (40, 30, 1)).astype(np.uint8)
    found = resample(image.astype(dtype), 17, 21, name)
    assert found.dtype == dtype
    assert np.abs(found.clip(0, 255) - resample(image, 17, 21, name).astype(np.float64)).max() <= 1.01


def test_a_filter_of_another_name_is_refused():
    with pytest.raises(UsageError, match="bilinear, bicubic, got 'lanczos'"):
        resample(np.zeros((2, 2, 1), np.uint8), 1, 1, "lanczos")  # pyright: ignore[reportArgumentType]
