"""The three ways to the same images, on few of them; the real figures are in experiments/results/data."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from experiments.data_copies import compare, copies, digests
from resnet_jax.data.cifar_names import CIFAR10


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep no labels beyond a test."""
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))


def write(folder, images, labels, suffix: str) -> None:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        split = "test" if index % 3 == 0 else "train"
        path = folder / split / CIFAR10[label] / f"{index:04}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(f".{suffix}", image[..., ::-1])[1].tobytes())


def test_few_images_have_the_same_pixels_in_all_three(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    write(tmp_path / "images", images, np.arange(60) // 3 % 10, "jpg")
    (tmp_path / "work").mkdir()
    found = {name: digests(way["source"]) for name, way in copies(tmp_path / "images", tmp_path / "work").items()}
    assert list(found) == ["folder", "array_record", "tfds"]
    for key in ("examples", "class_names", "pixels", "labels"):
        assert found["folder"][key] == found["array_record"][key] == found["tfds"][key]
    assert found["folder"]["examples"] == {"train": 40, "test": 20}


@pytest.mark.slow
def test_a_pretrained_network_is_as_good_on_all_three(shared_data, tmp_path):
    with np.load(shared_data / "cifar10-test-lossless-1017.npz") as data:
        images, labels = data["x"], data["y"]
    write(tmp_path / "images", images, labels, "png")
    (tmp_path / "work").mkdir()
    weights = shared_data / "pytorch-cifar-resnets"
    found = compare(tmp_path / "images", weights / "resnet20-12fca82f.th", tmp_path / "work")
    with np.load(weights / "torch-logits.npz") as logits:
        right = (logits["resnet20"].argmax(1) == labels)[::3].sum()
    assert {way["correct"] for way in found.values()} == {right}
    assert {way["of"] for way in found.values()} == {339}
