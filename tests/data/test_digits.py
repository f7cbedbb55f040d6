from __future__ import annotations

import numpy as np
from sklearn import datasets

from resnet_jax.data.digits import load_digits


def test_digits_equal_scikit_learn():
    dataset = load_digits()
    records = dataset.splits["all"]
    images, labels = datasets.load_digits(return_X_y=True)
    assert dataset.class_names == tuple("0123456789")
    np.testing.assert_array_equal(records.labels, labels)
    pixels = np.stack([records[i]["image"][..., 0] for i in range(len(records))])
    assert pixels.dtype == np.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.abs(pixels.reshape(-1, 64) - images * 255 / 16).max() <= 0.5


def test_digits_from_a_scikit_learn_that_keeps_them_elsewhere(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    from_package = load_digits().splits["all"]
    monkeypatch.undo()
    np.testing.assert_array_equal(from_package[5]["image"], load_digits().splits["all"][5]["image"])
    assert len(load_digits().splits["all"]) == 1797


def test_digits_as_rgb():
    image = load_digits(3).splits["all"][0]["image"]
    assert image.shape == (8, 8, 3)
    assert (image == image[..., :1]).all()
