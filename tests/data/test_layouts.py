"""Layouts as people and publishers have them: class in the name, lists of classes, annotations, wrapped folders."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from resnet_jax.data.folder import load_folder
from resnet_jax.errors import DataError, UsageError

PNG = cv2.imencode(".png", np.zeros((2, 3, 3), np.uint8))[1].tobytes()


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return root


def labelled(dataset, split: str = "all") -> dict[str, str]:
    records = dataset.splits[split]
    names = (dataset.class_names[label] for label in records.labels)
    return dict(zip((Path(path).name for path in records.paths), names, strict=True))


def test_the_class_may_be_in_the_name(tmp_path):
    put(tmp_path, "cat_01.png", "dog_01.png", "more/cat_02.png", "dog_02.jpg")
    (tmp_path / "readme.txt").write_text("text")
    dataset = load_folder(str(tmp_path), class_pattern=r"(?:^|/)([a-z]+)_")
    assert dataset.class_names == ("cat", "dog")
    assert labelled(dataset) == {"cat_01.png": "cat", "cat_02.png": "cat", "dog_01.png": "dog", "dog_02.jpg": "dog"}
    assert dataset.notes == ("1 of 5 files skipped because they are not images: 1 .txt",)
    assert dataset.splits["all"][0]["image"].shape == (2, 3, 3)


def test_numbers_in_names_are_sorted_as_numbers(tmp_path):
    put(tmp_path, *(f"{n}_x.png" for n in (10, 9, 2)))
    assert load_folder(str(tmp_path), class_pattern=r"^(\d+)_").class_names == ("2", "9", "10")


def test_splits_are_recognised_with_a_pattern_too(tmp_path):
    put(tmp_path, "Train/a_1.png", "Train/b_1.png", "Train/c_1.png", "test/a_2.png", "test/b_2.png", "val/c_3.png")
    dataset = load_folder(str(tmp_path), class_pattern="^([a-z])_")
    assert {split: len(records) for split, records in dataset.splits.items()} == {"train": 3, "val": 1, "test": 2}
    assert labelled(dataset, "test") == {"a_2.png": "a", "b_2.png": "b"}
    assert dataset.notes == ("val has no images of a, b (2 classes)", "test has no images of c (1 classes)")
    put(tmp_path, "test/d_1.png")
    with pytest.raises(DataError, match="the classes d are in test but not in train"):
        load_folder(str(tmp_path), class_pattern="^([a-z])_")


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("^([a-z]+)_", DataError, r"finds no class in '7\.png', 'x/1\.png' \(2 of 4 images\)"),
        ("^(q*)", DataError, r"finds no class in .* \(4 of 4 images\)"),
        ("(", UsageError, "no regular expression: missing"),
        ("^[a-z]+_", UsageError, r"has 0 groups; need one, .*'\^\(\[a-z\]\+\)_'"),
        ("(a)(b)", UsageError, "has 2 groups"),
        ("(png)", DataError, "finds the class png in all names; need at least two"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(tmp_path, pattern, error, message):
    put(tmp_path, "a_1.png", "b_1.png", "7.png", "x/1.png")
    with pytest.raises(error, match=message):
        load_folder(str(tmp_path), class_pattern=pattern)


def test_without_images_there_is_nothing_for_a_pattern(tmp_path):
    with pytest.raises(DataError, match="there are no images in it"):
        load_folder(str(tmp_path), class_pattern="(a)")


def test_a_list_gives_names_and_order(tmp_path):
    put(tmp_path / "set", "n1/a.png", "n2/b.png", "n3/c.png")
    (tmp_path / "classes.txt").write_text("n3 crane, a bird\nn1\tcrane\nn2\n\n", encoding="utf-8")
    dataset = load_folder(str(tmp_path / "set"), class_list=str(tmp_path / "classes.txt"))
    assert dataset.class_names == ("crane, a bird", "crane", "n2")
    assert labelled(dataset) == {"c.png": "crane, a bird", "a.png": "crane", "b.png": "n2"}
    assert dataset.splits["all"].labels.tolist() == [0, 1, 2]


def test_names_that_two_classes_have_are_told_apart(tmp_path):
    put(tmp_path / "set", "n1/a.png", "n2/b.png")
    (tmp_path / "classes.txt").write_text("n1 crane\nn2 crane\n")
    names = load_folder(str(tmp_path / "set"), class_list=str(tmp_path / "classes.txt")).class_names
    assert names == ("crane (n1)", "crane (n2)")


def test_folders_with_spaces_are_whole_lines(tmp_path):
    put(tmp_path / "set", "great dane/a.png", "basset hound/b.png")
    (tmp_path / "classes.txt").write_text("great dane\nbasset hound\n")
    dataset = load_folder(str(tmp_path / "set"), class_list=str(tmp_path / "classes.txt"))
    assert dataset.class_names == ("great dane", "basset hound")


def test_a_list_orders_what_a_pattern_finds(tmp_path):
    put(tmp_path / "set", "a_1.png", "b_1.png")
    (tmp_path / "classes.txt").write_text("b bee\na ant\n")
    wanted = {"class_pattern": "^([ab])", "class_list": str(tmp_path / "classes.txt")}
    assert labelled(load_folder(str(tmp_path / "set"), **wanted)) == {"a_1.png": "ant", "b_1.png": "bee"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", r"the list has no c \(1 of 3 folders\)"),
        ("a\nb\nc\nd\ne\n", r"2 of 5 classes of .* have no folder: d, e; .* leave them out"),
        ("a\nb\nc\na\n", "a given twice"),
        ("a\n\nb\nc\n", "line 2 is empty"),
        ("", "the list is empty"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, text, message):
    put(tmp_path / "set", "a/1.png", "b/1.png", "c/1.png")
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_folder(str(tmp_path / "set"), class_list=str(tmp_path / "classes.txt"))
    with pytest.raises(DataError, match=r"gone\.txt: cannot read it \(No such file"):
        load_folder(str(tmp_path / "set"), class_list=str(tmp_path / "gone.txt"))


def test_imagenet_samples_have_the_labels_of_the_list(shared_data, tmp_path):
    with tarfile.open(shared_data / "imagenet-samples-100.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    wnids = (shared_data / "imagenet_synsets.txt").read_text().split()
    wanted = {"class_list": str(shared_data / "imagenet_synsets.txt")}
    dataset = load_folder(str(tmp_path / "imagenet-samples"), least_classes=1, **wanted)
    records = dataset.splits["all"]
    assert dataset.class_names == tuple(wnids)
    assert [wnids[label] for label in records.labels] == [Path(path).parent.name for path in records.paths]
    assert {0, 191, 402, 990} <= set(records.labels.tolist())
    assert dataset.notes[0].startswith("898 of 1,000 classes of ")
    with pytest.raises(DataError, match=r"898 of 1,000 classes of .* a network is not trained on classes without"):
        load_folder(str(tmp_path / "imagenet-samples"), **wanted)


def tiny_imagenet(root: Path) -> Path:
    put(root, *(f"train/{wnid}/images/{wnid}_{n}.JPEG" for wnid in ("n02", "n01") for n in range(2)))
    for wnid in ("n01", "n02"):
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("x\t0\t0\t1\t1\n")
    put(root, *(f"val/images/val_{n}.JPEG" for n in range(3)), *(f"test/images/test_{n}.JPEG" for n in range(4)))
    lines = [f"val_{n}.JPEG\tn0{1 + n % 2}\t0\t0\t9\t9\n" for n in range(3)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "words.txt").write_text("n01\tfish\nn02\tbird\nn03\ttree\n")
    return root


def test_tiny_imagenet(tmp_path):
    dataset = load_folder(str(tiny_imagenet(tmp_path)))
    assert dataset.class_names == ("n01", "n02")
    assert labelled(dataset, "val") == {"val_0.JPEG": "n01", "val_1.JPEG": "n02", "val_2.JPEG": "n01"}
    assert dataset.splits["train"].labels.tolist() == [0, 0, 1, 1]
    assert set(dataset.splits) == {"train", "val"}
    assert dataset.notes[0] == "labels of 3 images are those of val_annotations.txt"
    assert "4 images of test left out: nothing says of which class they are" in dataset.notes
    wrapped = load_folder(str(tiny_imagenet(tmp_path / "x" / "tiny-imagenet-200").parent))
    assert wrapped.class_names == ("n01", "n02")
    assert "one deeper or more, in tiny-imagenet-200" in wrapped.notes[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("val_1.JPEG\tn02\t0\t0\t9\t9\n", "", r"names no class of .*val_1\.JPEG \(1 images\)"),
        ("n02", "n07", "n07 are no classes of the training images"),
        ("val_1.JPEG\tn02\t0\t0\t9\t9", "val_1.JPEG n02", "line 2 is .*; need a file and a class, with a tab between"),
        ("val_1.JPEG", "val_0.JPEG", "val_0 is of the classes n01 and n02; need one class"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(tmp_path, old, new, message):
    table = tiny_imagenet(tmp_path) / "val" / "val_annotations.txt"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        load_folder(str(tmp_path))


def test_annotated_images_that_are_not_there_are_said(tmp_path):
    (tiny_imagenet(tmp_path) / "val" / "images" / "val_2.JPEG").unlink()
    notes = load_folder(str(tmp_path)).notes
    assert notes[1] == "1 of the 3 images that val_annotations.txt names are not there: val_2"


def imagenet(root: Path, place: str = "") -> Path:
    put(root / place, *(f"train/{wnid}/{wnid}_1.JPEG" for wnid in ("n01", "n02", "n03")))
    put(root / place, *(f"val/ILSVRC2012_val_{n:08}.JPEG" for n in range(1, 5)))
    return root


def devkit(root: Path, numbers: str = "3\n1\n2\n1\n") -> None:
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(numbers)
    rows = [(1, "n02", 0), (2, "n01", 0), (3, "n03", 0), (4, "n99", 2)]
    kinds = np.dtype([("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)])
    savemat(data / "meta.mat", {"synsets": np.array(rows, kinds).reshape(-1, 1)})


def test_imagenet_with_its_devkit(tmp_path):
    with pytest.raises(DataError, match=r"lie in no class folders.*unpack ILSVRC2012_devkit_t12\.tar\.gz in"):
        load_folder(str(imagenet(tmp_path)))
    devkit(tmp_path)
    dataset = load_folder(str(tmp_path))
    assert list(labelled(dataset, "val").values()) == ["n03", "n02", "n01", "n02"]
    assert dataset.class_names == ("n01", "n02", "n03")
    assert "labels of 4 images are those of ILSVRC2012_validation_ground_truth.txt" in dataset.notes
    assert "folders left out beside the splits: ILSVRC2012_devkit_t12" in dataset.notes


@pytest.mark.parametrize(
    ("numbers", "message"),
    [("3\n1\n4\n1\n", "line 3 is '4'; need a number"), ("3\n1\n", "names no class of .*00000003")],
)
def test_devkits_that_do_not_fit_are_refused(tmp_path, numbers, message):
    devkit(imagenet(tmp_path), numbers)
    with pytest.raises(DataError, match=message):
        load_folder(str(tmp_path))


def test_a_table_of_synsets_that_is_broken_is_named(tmp_path):
    devkit(imagenet(tmp_path))
    meta = tmp_path / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"
    meta.write_bytes(meta.read_bytes()[:200])
    with pytest.raises(DataError, match=r"meta\.mat: cannot read its table of synsets"):
        load_folder(str(tmp_path))


@pytest.mark.parametrize("named", ["", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_of_kaggle(tmp_path, named):
    imagenet(tmp_path, "ILSVRC/Data/CLS-LOC")
    put(tmp_path / "ILSVRC" / "Data" / "CLS-LOC", "test/ILSVRC2012_test_00000001.JPEG")
    put(tmp_path / "ILSVRC" / "Annotations" / "CLS-LOC", "x.txt")
    rows = [(1, "n03"), (2, "n01"), (3, "n02"), (4, "n02")]
    lines = "".join(f"ILSVRC2012_val_{n:08},{wnid} 1 2 3 4 {wnid} 5 6 7 8 \n" for n, wnid in rows)
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{lines}")
    mapping = tmp_path / "LOC_synset_mapping.txt"
    mapping.write_text("n01 tench, Tinca tinca\nn02 goldfish\nn03 shark\n")
    dataset = load_folder(str(tmp_path / named))
    assert list(labelled(dataset, "val").values()) == ["n03", "n01", "n02", "n02"]
    assert any(note.startswith("1 images of test left out") for note in dataset.notes)
    named_ones = load_folder(str(tmp_path / named), class_list=str(mapping))
    assert named_ones.class_names == ("tench, Tinca tinca", "goldfish", "shark")
    assert list(labelled(named_ones, "val").values()) == ["shark", "tench, Tinca tinca", "goldfish", "goldfish"]


@pytest.mark.parametrize("above", ["data", "a/b/c"])
def test_what_lies_below_the_only_folder_is_read_and_said(tmp_path, above):
    put(tmp_path / above, "x/1.png", "y/1.png")
    dataset = load_folder(str(tmp_path))
    assert dataset.class_names == ("x", "y")
    assert dataset.notes == (f"the class folders are one deeper or more, in {above}",)
    assert [os.path.relpath(path, tmp_path) for path in dataset.splits["all"].paths] == [
        f"{above}/x/1.png",
        f"{above}/y/1.png",
    ]


def test_what_may_be_a_class_is_not_gone_below(tmp_path):
    put(tmp_path / "one", "only/a/1.png", "only/b/1.png")
    with pytest.raises(DataError, match=r"the only class folder is only; .* write folder:.*/only"):
        load_folder(str(tmp_path / "one"), least_classes=1)  # to evaluate on, it may be one class
    put(tmp_path / "two", "only/a/1.png", "only/b/1.png", "only/1.png")
    with pytest.raises(DataError, match="the only class folder is only"):
        load_folder(str(tmp_path / "two"))
    put(tmp_path / "three", "only/a/1.png", "only/b/1.png", "1.png")
    with pytest.raises(DataError, match="the only class folder is only"):
        load_folder(str(tmp_path / "three"))


def test_links_that_lead_out_are_followed_and_said(tmp_path):
    put(tmp_path, "elsewhere/c/1.png", "elsewhere/lone.png", "set/a/1.png", "set/b/1.png")
    root = tmp_path / "set"
    (root / "c").symlink_to(tmp_path / "elsewhere" / "c")
    (root / "b" / "out.png").symlink_to(tmp_path / "elsewhere" / "lone.png")
    (root / "b" / "in.png").symlink_to("../a/1.png")
    dataset = load_folder(str(root))
    assert dataset.splits["all"].labels.tolist() == [0, 1, 1, 1, 2]
    assert dataset.notes == (
        f"2 links lead out of {root} and are followed: b/out.png -> {tmp_path}/elsewhere/lone.png, "
        f"c -> {tmp_path}/elsewhere/c",
    )


def test_a_link_to_a_folder_above_the_set_is_not_followed(tmp_path):
    put(tmp_path, "set/a/1.png", "set/b/1.png", "private/1.png")
    (tmp_path / "set" / "a" / "all").symlink_to("/")
    (tmp_path / "set" / "b" / "up").symlink_to(tmp_path)
    dataset = load_folder(str(tmp_path / "set"))
    assert len(dataset.splits["all"]) == 2
    assert "links that lead back to a folder above them are not followed" in dataset.notes[0]


def test_names_with_spaces_unicode_and_newlines_are_names(tmp_path):
    names = ("a b", "Ünïcödé 猫", "line\nbreak", "'quoted'", "-dash")
    put(tmp_path, *(f"{name}/{name} 1.png" for name in names))
    dataset = load_folder(str(tmp_path))
    assert dataset.class_names == tuple(sorted(names))
    for index in range(len(names)):
        assert dataset.splits["all"][index]["image"].shape == (2, 3, 3)


def test_a_file_deleted_after_the_start_is_named(tmp_path):
    records = load_folder(str(put(tmp_path, "a/1.png", "b/1.png"))).splits["all"]
    (tmp_path / "b" / "1.png").unlink()
    with pytest.raises(DataError, match=r"b/1\.png: cannot read it \(No such file or directory\)"):
        records[1]


def test_text_and_nothing_called_images_are_refused_by_name(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "2.jpg").write_text("no image")
    records = load_folder(str(tmp_path)).splits["all"]
    with pytest.raises(DataError, match=r"a/2\.jpg: this is text and no image that is read"):
        records[1]
    (tmp_path / "a" / "3.jpg").touch()
    with pytest.raises(DataError, match=r"a/3\.jpg: the file is empty"):
        load_folder(str(tmp_path))
