"""Boxes as Pascal VOC writes them: corners, splits, classes, and annotations that are broken or hostile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.data.kinds.plain_xml import parse_xml
from resnet_jax.errors import DataError, UsageError

from .conftest import noise, write_image


def annotation(*objects: str, width: object = 16, height: object = 12) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>x</filename>{size}{''.join(objects)}</annotation>"


def thing(name: str, xmin: object, ymin: object, xmax: object, ymax: object, difficult: int = 0) -> str:
    box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def voc(root: Path, lists: dict[str, list[str]] | None = None, **xml: str) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, (stem, text) in enumerate(xml.items()):
        (root / "Annotations" / f"{stem}.xml").write_text(text)
        write_image(root / "JPEGImages" / f"{stem}.png", noise(seed))
    for split, stems in (lists or {}).items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return root


def test_corners_are_counted_from_0_and_the_far_one_is_exclusive(tmp_path):
    root = voc(tmp_path, a=annotation(thing("cat", 1, 1, 16, 12), thing("ant", 3, 2, 3, 2, difficult=1)))
    data = load_dataset(f"voc:{root}")
    found = data.splits["all"][0]
    assert found["boxes"].tolist() == [[0, 0, 12, 16], [1, 2, 2, 3]]  # the whole image; one pixel
    assert data.class_names == ("ant", "cat")
    assert found["box_label"].tolist() == [1, 0]
    assert found["difficult"].tolist() == [False, True]
    np.testing.assert_array_equal(found["image"], noise(0))
    assert data.kind == "boxes"
    assert any("1 boxes are marked difficult" in note for note in data.notes)


def test_lists_are_splits_and_boxes_are_padded_to_one_number(tmp_path):
    one, two = thing("a", 1, 1, 4, 4), thing("b", 2, 2, 5, 5)
    root = voc(tmp_path, {"train": ["x", "y"], "val": ["z"]}, x=annotation(one), y=annotation(), z=annotation(one, two))
    data = load_dataset(f"voc:{root}")
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 2, "val": 1}
    assert data.splits["train"][0]["box_label"].tolist() == [0, -1]
    assert data.splits["train"][1]["box_label"].tolist() == [-1, -1]
    assert data.splits["train"].spec["boxes"].shape == data.splits["val"].spec["boxes"].shape == (2, 4)
    assert any("1 images have no boxes and stay" in note for note in data.notes)


def test_trainval_is_train_where_there_is_no_train_and_a_devkit_is_entered(tmp_path):
    one = thing("a", 1, 1, 4, 4)
    voc(tmp_path / "VOCdevkit" / "VOC2007", {"trainval": ["x"], "test": ["y"]}, x=annotation(one), y=annotation(one))
    data = load_dataset(f"voc:{tmp_path}")
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 1, "test": 1}
    voc(tmp_path / "VOCdevkit" / "VOC2012", x=annotation(one))
    with pytest.raises(DataError, match="holds VOC2007, VOC2012; name one of them"):
        load_dataset(f"voc:{tmp_path}")


def test_splits_as_folders_with_images_and_xml_beside_each_other(tmp_path):
    for split in ("train", "valid"):
        write_image(tmp_path / split / "x.png", noise(1))
        (tmp_path / split / "x.xml").write_text(annotation(thing("a", 1, 1, 4, 4)))
    assert list(load_dataset(f"voc:{tmp_path}").splits) == ["train", "val"]


def test_boxes_outside_are_clipped_and_those_without_area_left_out_and_both_are_said(tmp_path):
    boxes = [thing("a", -3, 1, 20, 4), thing("a", 5, 5, 3, 9), thing("a", 30, 1, 40, 4), thing("a", 2, 2, 3, 3)]
    data = load_dataset(f"voc:{voc(tmp_path, x=annotation(*boxes))}")
    assert data.splits["all"][0]["boxes"].tolist() == [[0, 0, 4, 16], [1, 1, 3, 3]]
    assert any("1 boxes reach outside their image, by up to 4 pixels, and are clipped" in note for note in data.notes)
    assert any("2 boxes without area are left out, such as rows 4 to 9, columns 4 to 3" in note for note in data.notes)
    zeros = load_dataset(f"voc:{voc(tmp_path, x=annotation(thing('a', 0, 0, 4, 4)))}")
    assert "1 of 1 boxes begin at 0" in zeros.notes[0]


def test_sizes_that_are_not_in_the_annotation_come_from_the_image_and_others_are_refused(tmp_path):
    root = voc(tmp_path, x=annotation(thing("a", 1, 1, 99, 99), width=0, height=0))
    assert load_dataset(f"voc:{root}").splits["all"][0]["boxes"].tolist() == [[0, 0, 12, 16]]
    root = voc(tmp_path, x=annotation(thing("a", 1, 1, 4, 4), width=12, height=16))
    with pytest.raises(DataError, match=r"x\.png: 12 x 16 pixels .* annotation says 16 x 12"):
        load_dataset(f"voc:{root}").splits["all"][0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "no whole XML file"),
        ("", "the file is empty"),
        ("<data/>", "begins with <data>"),
        (annotation("<object><name>a</name></object>"), "object 1: it has no bndbox"),
        (annotation("<object><bndbox/></object>"), "object 1: it has no name"),
        (annotation("<object><name>a</name><bndbox><xmin>1</xmin></bndbox></object>"), "needs xmin, ymin, xmax"),
        (annotation(thing("a", "one", 1, 2, 2)), r"object 1 \(a\): 'one' is no number"),
        (annotation(thing("a", "nan", 1, 2, 2)), "a box of"),
        (annotation(), "no object in any of 1 annotations"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load_dataset(f"voc:{voc(tmp_path, x=text)}")


def test_all_broken_annotations_are_named_and_channels_that_cannot_be_had(tmp_path):
    root = voc(tmp_path, x="<a>", y=annotation(thing("a", 1, 1, 2, 2)), z="")
    with pytest.raises(DataError, match=r"2 of 3 files are broken: .*x\.xml: .*; .*z\.xml: the file is empty"):
        load_dataset(f"voc:{root}")
    (root / "Annotations" / "x.xml").unlink()
    (root / "Annotations" / "z.xml").unlink()
    with pytest.raises(UsageError, match="channels=2 is not possible"):
        load_dataset(f"voc:{root}", channels=2)
    assert load_dataset(f"voc:{root}", channels=1).splits["all"][0]["image"].shape == (12, 16, 1)


def test_entities_are_refused_and_so_are_files_without_bound(tmp_path, monkeypatch):
    lol = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
    (tmp_path / "x.xml").write_text(lol)
    with pytest.raises(DataError, match="declares a document type"):
        parse_xml(str(tmp_path / "x.xml"))
    (tmp_path / "x.xml").write_text('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>')
    with pytest.raises(DataError, match="declares a document type"):
        parse_xml(str(tmp_path / "x.xml"))
    (tmp_path / "x.xml").write_text("<a>" * 40 + "</a>" * 40)
    with pytest.raises(DataError, match="elements lie 33 deep"):
        parse_xml(str(tmp_path / "x.xml"))
    monkeypatch.setattr("resnet_jax.data.kinds.plain_xml.MAX_BYTES", 10)
    with pytest.raises(DataError, match="at most 10"):
        parse_xml(str(tmp_path / "x.xml"))


def test_what_lists_and_class_lists_name_must_be_there(tmp_path):
    one = annotation(thing("cat", 1, 1, 4, 4))
    root = voc(tmp_path, {"train": ["x", "gone"], "val": ["x"]}, x=one)
    with pytest.raises(DataError, match=r"train\.txt: gone has no annotation"):
        load_dataset(f"voc:{root}")
    (root / "Annotations" / "gone.xml").write_text(one)
    with pytest.raises(DataError, match="there is no image gone in"):
        load_dataset(f"voc:{root}")
    root = voc(tmp_path / "other", x=one)
    (tmp_path / "names.txt").write_text("dog\ncut\n")
    with pytest.raises(DataError, match="class 'cat' is not in the list; did you mean 'cut'"):
        load_dataset(f"voc:{root}", class_list=str(tmp_path / "names.txt"))
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    data = load_dataset(f"voc:{root}", class_list=str(tmp_path / "names.txt"))
    assert data.splits["all"][0]["box_label"].tolist() == [1]


def test_blood_cells(unpacked):
    root = unpacked("bccd-train-val") / "bccd"
    data = load_dataset(f"voc:{root}")
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 205, "val": 87}
    assert data.class_names == ("Platelets", "RBC", "WBC")
    records = data.splits["train"]
    found = records[[Path(path).stem for path in records.paths].index("BloodImage_00001")]
    assert found["boxes"][0].tolist() == [314, 67, 480, 286]  # xmin 68, ymin 315, xmax 286, ymax 480 in the file
    assert data.class_names[found["box_label"][0]] == "WBC"
