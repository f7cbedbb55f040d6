from __future__ import annotations

import contextlib
import os
import tarfile

import numpy as np
import pytest

from resnet_jax.data.folder import load_folder
from resnet_jax.errors import DataError


def test_one_level_is_one_split_in_sorted_order(make_folder):
    root = make_folder({"dog": 2, "cat": 3})
    for name in ("notes.txt", ".hidden.png"):
        (root / "dog" / name).write_text("no image")
    (root / ".cache").mkdir()
    (root / "readme.md").touch()
    dataset = load_folder(str(root))
    records = dataset.splits["all"]
    assert dataset.class_names == ("cat", "dog")
    assert records.labels.tolist() == [0, 0, 0, 1, 1]
    assert [records.describe(i) for i in range(5)] == sorted(make_folder.pixels)
    for i in range(5):
        np.testing.assert_array_equal(records.image(i), make_folder.pixels[records.describe(i)])
    assert load_folder(str(root), 1).splits["all"].image(0).shape == (6, 5, 1)


def test_order_does_not_depend_on_the_file_system(make_folder, monkeypatch):
    root = make_folder({"dog": 3, "cat": 3})
    scandir = os.scandir

    @contextlib.contextmanager
    def backwards(path):
        with scandir(path) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr(os, "scandir", backwards)
    dataset = load_folder(str(root))
    records = dataset.splits["all"]
    assert dataset.class_names == ("cat", "dog")
    assert [records.describe(i) for i in range(6)] == sorted(make_folder.pixels)


def test_suffixes_in_any_case(make_folder):
    root = make_folder({"a": 1, "b": 5})
    for i, suffix in enumerate((".JPEG", ".jpg", ".bmp", ".WebP")):
        (root / "b" / f"{i:03}.png").rename(root / "b" / f"{i}{suffix}")
    assert len(load_folder(str(root)).splits["all"]) == 6


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ({"train": "train", "test": "test"}, {"train", "test"}),
        ({"train": "train", "valid": "val"}, {"train", "val"}),
        ({"train": "train", "validation": "val", "test": "test"}, {"train", "val", "test"}),
    ],
)
def test_split_folders(make_folder, folders, splits):
    counts = {"train": 3, "val": 2, "test": 1}
    root = make_folder({f"{f}/{c}": counts[s] for f, s in folders.items() for c in ("x", "y")})
    dataset = load_folder(str(root))
    assert set(dataset.splits) == splits
    assert {s: len(r) for s, r in dataset.splits.items()} == {s: 2 * counts[s] for s in splits}
    for split, records in dataset.splits.items():
        folder = {v: k for k, v in folders.items()}[split]
        assert all(f"/{folder}/" in records.describe(i) for i in range(len(records)))


def test_a_class_may_be_called_train(make_folder):
    assert load_folder(str(make_folder({"train": 1, "plane": 2}))).class_names == ("plane", "train")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no class folders in it; need PATH/CLASS"),
        ({"a": 2}, "the classes are a; need at least two"),
        ({"a": 2, "b": 0}, r"b: no images in it; a class folder holds \.jpg"),
        ({"val/a": 1, "test/a": 1}, "holds test, val but no train with class folders"),
        ({"train": 0, "test": 0}, "holds test, train but no train with class folders"),
        ({"train/a": 1, "train/b": 1}, "neither test nor val beside it .*name .*train itself"),
        ({"train/a": 1, "train/b": 1, "tset/a": 1}, r"\(found train, tset\)"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1, "valid/a": 1}, "both val and valid are there"),
        ({"train/a": 1, "train/b": 1, "test": 0}, "test: no class folders"),
        (
            {"train/a": 1, "train/b": 1, "test/a": 1},
            r"class 'b' is in .*train but not in .*test \(1 classes missing",
        ),
        ({"train/a": 1, "test/a": 1, "test/c": 1}, r"class 'c' is in .*test but not in .*train .* 1 unknown"),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 0}, r"test/b: no images in it"),
    ],
)
def test_wrong_layouts_are_named(make_folder, counts, message):
    with pytest.raises(DataError, match=message):
        load_folder(str(make_folder(counts)))


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"gone: there is no such folder; need PATH/CLASS/\*\.jpg, or PATH/train"):
        load_folder(str(tmp_path / "gone"))


def test_unreadable_images_are_named_when_they_are_read(make_folder):
    root = make_folder({"a": 2, "b": 1})
    cut, gone = root / "a" / "000.png", root / "a" / "001.png"
    records = load_folder(str(root)).splits["all"]
    cut.write_bytes(cut.read_bytes()[:50])
    gone.unlink()
    with pytest.raises(DataError, match=f"{cut}: cannot decode these 50 bytes"):
        records.image(0)
    with pytest.raises(DataError, match=rf"{gone}: cannot read it \(No such file"):
        records.image(1)


def test_imagenet_samples(shared_data, tmp_path):
    with tarfile.open(shared_data / "imagenet-samples-100.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    dataset = load_folder(str(tmp_path / "imagenet-samples"))
    assert dataset.num_classes == 102
    assert list(dataset.class_names) == sorted(dataset.class_names)
    records = dataset.splits["all"]
    grey = next(i for i in range(102) if "n03908714" in records.describe(i))
    image = records.image(grey)
    assert image.shape[-1] == 3
    assert (image == image[..., :1]).all()
