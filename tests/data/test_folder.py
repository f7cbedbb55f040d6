from __future__ import annotations

import contextlib
import os
import tarfile

import cv2
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
        np.testing.assert_array_equal(records[i]["image"], make_folder.pixels[records.describe(i)])
    assert load_folder(str(root), channels=1).splits["all"][0]["image"].shape == (6, 5, 1)


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


def test_everything_the_decoder_reads_is_read_and_the_rest_counted_once(make_folder):
    root = make_folder({"a": 1, "b": 1})
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    for suffix in (".tif", ".tiff", ".gif", ".jpe", ".jp2", ".ppm", ".ras", ".avif", ".webp", ".bmp"):
        (root / "a" / f"x{suffix}").write_bytes(cv2.imencode(suffix, cv2.resize(image, (40, 40)))[1].tobytes())
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    for name in ("x.jfif", "x.image", "no suffix at all", "x.JPG.download"):
        (root / "a" / name).write_bytes(jpeg)
    for folder, name, data in (
        ("a", "Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(60)),
        ("a", "notes.txt", b"text"),
        ("b", "more.txt", b"text"),
        ("b", "x.wav", b"RIFF\0\0\0\0WAVEfmt "),
        ("b", "x.heic", b"\0\0\0\x18ftypheic" + bytes(20)),
        ("b", ".hidden.png", b"nothing"),
    ):
        (root / folder / name).write_bytes(data)
    dataset = load_folder(str(root))
    records = dataset.splits["all"]
    assert len(records) == 16
    assert all(records[i]["image"].shape[-1] == 3 for i in range(16))
    assert len(dataset.notes) == 1
    for part in (
        "5 of 21 files skipped because they are not images: 2 .txt",
        "1 .db",
        "1 .wav (sound (WAV);",
        "1 .heic (a HEIC",
    ):
        assert part in dataset.notes[0]


def test_images_in_subfolders_are_read_and_counted(make_folder):
    root = make_folder({"a": 2, "a/more": 3, "a/more/still": 1, "b/only": 4})
    dataset = load_folder(str(root))
    assert dataset.splits["all"].labels.tolist() == [0] * 6 + [1] * 4
    assert dataset.notes == ("8 of 10 images lie in subfolders of their class folder: a/more, a/more/still, b/only",)


def test_links_are_followed_but_not_in_a_circle(make_folder):
    root = make_folder({"elsewhere/c": 2, "set/a": 2, "set/b": 1})
    (root / "set" / "a" / "round").symlink_to(root / "set")
    (root / "set" / "a" / "self").symlink_to(root / "set" / "a")
    (root / "set" / "c").symlink_to(root / "elsewhere" / "c")
    (root / "set" / "b" / "x.png").symlink_to(root / "set" / "a" / "000.png")
    dataset = load_folder(str(root / "set"))
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.splits["all"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "links that lead back to a folder above them are not followed: " in dataset.notes[0]


@pytest.mark.parametrize("where", ["a/lost.png", "a/lost", "lost"])
def test_a_link_that_leads_nowhere_is_refused(make_folder, where):
    root = make_folder({"a": 2, "b": 2})
    (root / where).symlink_to(root / "gone")
    with pytest.raises(
        DataError, match=rf"{where}: a link that leads nowhere \(to .*gone\); restore what it points to"
    ):
        load_folder(str(root))


def test_an_empty_file_is_refused_at_once(make_folder):
    root = make_folder({"a": 2, "b": 2})
    (root / "b" / "zero.jpg").touch()
    with pytest.raises(DataError, match=r"b/zero\.jpg: the file is empty \(0 bytes\)"):
        load_folder(str(root))


def test_a_pipe_called_an_image_is_left_out(make_folder):
    root = make_folder({"a": 2, "b": 2})
    os.mkfifo(root / "a" / "pipe.png")
    assert load_folder(str(root)).notes == ("1 of 5 files skipped because they are not images: 1 .png (a pipe)",)


def test_a_folder_that_cannot_be_read_is_named(make_folder, monkeypatch):
    root, scandir = make_folder({"a": 2, "b": 2}), os.scandir

    def refusing(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"/b: cannot read this folder \(Permission denied\)"):
        load_folder(str(root))


def test_a_class_without_images_says_what_its_files_are(make_folder):
    root = make_folder({"a": 2, "b": 0})
    for i in range(3):
        (root / "b" / f"{i}.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    with pytest.raises(DataError, match=r"b: no images in it \(3 files, none an image: 3 \.wav \(sound \(WAV\)"):
        load_folder(str(root))


def test_names_need_not_be_utf8(make_folder):
    root = make_folder({"a": 1, "b": 1})
    odd = os.fsencode(root) + b"/caf\xe9 [x]: $1"
    os.mkdir(odd)
    os.link(root / "a" / "000.png", odd + b"/\xff.png")
    dataset = load_folder(str(root))
    assert os.fsencode(dataset.class_names[2]) == b"caf\xe9 [x]: $1"
    assert dataset.splits["all"][2]["image"].shape == (6, 5, 3)


def test_what_lies_beside_classes_and_splits_is_said(make_folder):
    folders = {"train": 3, "train/Cat": 1, "train/cat": 1, "test/Cat": 1, "test/cat": 1, "extra": 2, "__MACOSX": 1}
    notes = load_folder(str(make_folder(folders))).notes
    assert notes[0] == "folders left out beside the splits: extra"
    assert notes[1].startswith("3 images left out that lie beside the class folders of ")
    assert notes[2] == "classes that differ in capitals or accents only are told apart: Cat, cat"


def test_masks_beside_their_images_are_said(make_folder):
    root = make_folder({"a": 2, "b": 2})
    (root / "a" / "001.png").rename(root / "a" / "000_mask.png")
    assert load_folder(str(root)).notes == (
        "1 of 4 images are named like masks of others beside them and are read as images: 000_mask.png",
    )


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ({"train": "train", "test": "test"}, {"train", "test"}),
        ({"train": "train", "valid": "val"}, {"train", "val"}),
        ({"train": "train", "validation": "val", "test": "test"}, {"train", "val", "test"}),
        ({"Training": "train", "Testing": "test"}, {"train", "test"}),
        ({"TRAIN": "train", "VAL": "val"}, {"train", "val"}),
    ],
)
def test_split_folders(make_folder, folders, splits):
    counts = {"train": 3, "val": 2, "test": 1}
    root = make_folder({f"{f}/{c}": counts[s] for f, s in folders.items() for c in ("x", "y")})
    dataset = load_folder(str(root))
    assert set(dataset.splits) == splits
    assert {s: len(r) for s, r in dataset.splits.items()} == {s: 2 * counts[s] for s in splits}
    assert dataset.origins == {split: folder for folder, split in folders.items()}
    for split, records in dataset.splits.items():
        folder = {v: k for k, v in folders.items()}[split]
        assert all(f"/{folder}/" in records.describe(i) for i in range(len(records)))


def test_a_class_may_be_called_train(make_folder):
    assert load_folder(str(make_folder({"train": 1, "plane": 2}))).class_names == ("plane", "train")
    assert load_folder(str(make_folder({"mask": 1, "no_mask": 2}))).num_classes == 4


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no class folders in it, which holds nothing; need PATH/CLASS"),
        ({"": 4}, "no class folders in it, which holds 4 images that belong to no class: sort them into one folder"),
        ({"a": 2}, "the only class folder is a; need at least two .*, it holds 2 images"),
        ({"a": 2, "b": 0}, r"b: no images in it \(it is empty\); a class folder holds JPEG"),
        ({"val/a": 1, "test/a": 1}, "holds test, val but no train with class folders"),
        ({"train": 0, "test": 0}, "holds test, train but no train with class folders"),
        ({"train/a": 1, "train/b": 1}, "neither test nor val beside it .*name .*train itself"),
        ({"train/a": 1, "train/b": 1, "tset/a": 1}, r"\(found train, tset\)"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1, "valid/a": 1}, "both val and valid are there"),
        ({"train/a": 1, "train/b": 1, "test": 0}, "test: no class folders in it, which holds nothing"),
        (
            {"train/a": 1, "train/b": 1, "test": 3},
            "test: no class folders in it, which holds 3 images that belong to no",
        ),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/B": 1}, "class 'b' .* 'B' there is written otherwise"),
        ({"train/a": 1, "train/b": 1, "Train/a": 1, "Train/b": 1}, "both Train and train are there; keep one"),
        (
            {"train": 2, "trainannot": 2, "val": 2, "valannot": 2},
            r"look like splits \(train, trainannot, val, valannot\)",
        ),
        ({"JPEGImages": 2, "Annotations": 0, "ImageSets": 0}, r"annotations \(Annotations, ImageSets\) and a store of"),
        ({"images": 2, "masks": 2}, r"annotations \(masks\) and a store of images \(images\), not like classes"),
        ({"train2017": 2, "val2017": 2}, r"look like splits \(train2017, val2017\)"),
        ({"Training": 2, "Testing": 2}, r"Testing, Training but no train with class folders \(Testing holds 2 images"),
        ({"trainA": 2, "trainB": 2, "testA": 2, "testB": 2}, "look like splits"),
        ({"train": 2, "test": 2, "other": 2}, r"look like splits \(train, test\)"),
        (
            {"train/images": 2, "train/labels": 2, "valid/images": 2, "valid/labels": 2},
            "train: its folders look like anno",
        ),
        ({"a/train": 2, "a/test": 2, "b/train": 2, "b/test": 2}, "a class folder with the splits train, test in it"),
        ({"a/images": 2, "a/masks": 2, "b/images": 2, "b/masks": 2}, "a class folder with masks in it, whose images"),
        (
            {"train/a": 1, "train/b": 1, "test/a": 1},
            r"class 'b' is in .*train but not in .*test \(1 classes missing",
        ),
        ({"train/a": 1, "test/a": 1, "test/c": 1}, r"class 'c' is in .*test but not in .*train .* 1 unknown"),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 0}, r"test/b: no images in it"),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1, "test/c": 1}, "class 'c' is in .*test but not in"),
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
        records[0]["image"]
    with pytest.raises(DataError, match=rf"{gone}: cannot read it \(No such file"):
        records[1]["image"]


@pytest.mark.parametrize(
    ("given", "message"),
    [("x.tar", "a tar archive and no folder: unpack it"), ("x.npz", "a file of arrays and no folder; write npz:")],
)
def test_a_file_is_no_folder(tmp_path, given, message):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=message):
        load_folder(str(tmp_path / given))


@pytest.mark.parametrize(
    ("pack", "folder", "message"),
    [
        ("camvid-train-val", "camvid", r"look like splits \(train, trainannot, val, valannot\), not like classes"),
        ("camvid-train-val", "camvid/train", "holds 367 images that belong to no class"),
        ("camvid-train-val", ".", "camvid: its folders look like splits"),
        ("bccd-train-val", "bccd", r"look like annotations \(Annotations, ImageSets\) and a store of images"),
        ("bccd-train-val", "bccd/ImageSets", r"the only class folder is Main; .*, it holds 3 files: 3 \.txt"),
        ("bccd-train-val", "bccd/Annotations", r"no class folders in it, which holds 292 files: 292 \.xml"),
        ("spoken-digits-5-speakers", "spoken-digits", r"only class folder is recordings; .* 2,250 \.wav \(sound"),
    ],
)
def test_sets_of_another_layout_are_refused(shared_data, tmp_path, pack, folder, message):
    with tarfile.open(shared_data / f"{pack}.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    with pytest.raises(DataError, match=message):
        load_folder(str(tmp_path / folder))


def test_imagenet_samples(shared_data, tmp_path):
    with tarfile.open(shared_data / "imagenet-samples-100.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    dataset = load_folder(str(tmp_path / "imagenet-samples"))
    assert dataset.num_classes == 102
    assert list(dataset.class_names) == sorted(dataset.class_names)
    records = dataset.splits["all"]
    grey = next(i for i in range(102) if "n03908714" in records.describe(i))
    image = records[grey]["image"]
    assert image.shape[-1] == 3
    assert (image == image[..., :1]).all()
