"""Boxes as COCO writes them: corners, category ids, crowds, layouts, and JSON that is broken."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from resnet_jax.data import load_dataset
from resnet_jax.data.kinds.box_records import BoxRecords
from resnet_jax.errors import DataError

from .conftest import noise, write_image

TABLE = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 12, "width": 16},
        {"id": 9, "file_name": "b.png", "height": 12, "width": 16},
    ],
    "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [2, 1, 3.5, 4], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 16, 12], "iscrowd": 1},
    ],
}


def coco(folder: Path, images: Path, name: str, table: dict = TABLE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, image in enumerate(("a.png", "b.png")):
        write_image(images / image, noise(seed))
    (folder / name).write_text(json.dumps(table))
    return folder / name


def test_x_y_width_height_become_corners_and_ids_labels(tmp_path):
    file = coco(tmp_path, tmp_path, "x.json")
    data = load_dataset(f"coco:{file}")
    found = data.splits["all"][0]
    assert data.class_names == ("cat", "zebra")  # by id
    assert found["boxes"].tolist() == [[1, 2, 5, 5.5], [0, 0, 12, 16]]
    assert found["box_label"].tolist() == [1, 0]
    assert found["crowd"].tolist() == [False, True]
    assert data.splits["all"][1]["box_label"].tolist() == [-1, -1]
    assert any("1 images have no boxes and stay" in note for note in data.notes)
    assert any("1 boxes are marked crowds" in note for note in data.notes)
    records = data.splits["all"]
    assert isinstance(records, BoxRecords)
    assert (records.ids[0], records.category_ids) == (7, (3, 90))  # for detections in COCO's format


def test_the_layouts(tmp_path):
    for split in ("train", "val"):
        coco(tmp_path / "one" / "annotations", tmp_path / "one" / f"{split}2017", f"instances_{split}2017.json")
        coco(tmp_path / "two" / split, tmp_path / "two" / split, "_annotations.coco.json")
    (tmp_path / "one" / "annotations" / "captions_train2017.json").write_text("not looked at")
    for name in ("one", "two"):
        data = load_dataset(f"coco:{tmp_path / name}")
        assert {split: len(records) for split, records in data.splits.items()} == {"train": 2, "val": 2}
    file = coco(tmp_path / "three", tmp_path / "elsewhere", "x.json")
    with pytest.raises(DataError, match=r"three: 2 of 2 images are not there: a\.png, b\.png"):
        load_dataset(f"coco:{file}")
    assert len(load_dataset(f"coco:{file}@{tmp_path / 'elsewhere'}").splits["all"]) == 2
    with pytest.raises(DataError, match="no such folder of images"):
        load_dataset(f"coco:{file}@{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match=r"need PATH/annotations/instances_train2017\.json"):
        load_dataset(f"coco:{tmp_path / 'elsewhere'}")


def test_boxes_outside_and_without_area(tmp_path):
    table = copy.deepcopy(TABLE)
    table["annotations"] += [
        {"id": 3, "image_id": 9, "category_id": 3, "bbox": [10, 5, 9, 2]},
        {"id": 4, "image_id": 9, "category_id": 3, "bbox": [3, 3, 0, 5]},
        {"id": 5, "image_id": 9, "category_id": 3, "bbox": [3, 3, -1, 5]},
    ]
    data = load_dataset(f"coco:{coco(tmp_path, tmp_path, 'x.json', table)}")
    assert data.splits["all"][1]["boxes"].tolist() == [[5, 10, 7, 16], [0, 0, 0, 0]]
    assert any("1 boxes reach outside their image, by up to 3 pixels" in note for note in data.notes)
    assert any("2 boxes without area are left out" in note for note in data.notes)


def changed(**how):
    table = copy.deepcopy(TABLE)
    for name, (place, values) in how.items():
        if place is None:
            table[name] = values
        else:
            table[name][place] |= values
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed(annotations=(0, {"category_id": 5})), "annotation 1: category_id 5 is none of the 2 categories"),
        (changed(annotations=(0, {"image_id": 5})), "annotations of 1 images that it does not list: 5"),
        (changed(annotations=(0, {"bbox": [1, 2, 3]})), r"annotation 1: bbox is \[1, 2, 3\]; need four numbers"),
        (changed(annotations=(0, {"bbox": None})), "annotation 1: bbox is None"),
        (changed(annotations=(None, {"a": 1})), "no list of objects 'annotations'"),
        (changed(images=(None, [])), "its list of images is empty"),
        (changed(images=(1, {"id": 7})), "image 7: there is an image of this id already"),
        (changed(images=(1, {"file_name": "../b.png"})), r"file_name '\.\./b\.png' leads out of"),
        (changed(images=(1, {"file_name": "/etc/passwd"})), "leads out of"),
        (changed(images=(1, {"height": "12"})), "image 9: height is '12'"),
        (changed(images=(1, {"height": 0})), "image 9: 0 x 16 pixels"),
        (changed(images=(1, {"width": 429496729610})), "an image of 12 x 429496729610 pixels; a side has at most"),
        (changed(categories=(1, {"id": 90})), "category 1: id 90 is that of 'zebra' already"),
        (changed(categories=(1, {"name": "zebra"})), "several categories are called zebra"),
        (changed(categories=(None, [])), "its list of categories is empty"),
        ([1], "a JSON list; COCO's is an object"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, table, message):
    with pytest.raises(DataError, match=message):
        load_dataset(f"coco:{coco(tmp_path, tmp_path, 'x.json', table)}")


def test_json_that_is_cut_or_too_large(tmp_path, monkeypatch):
    file = coco(tmp_path, tmp_path, "x.json")
    file.write_text(file.read_text()[:-5])
    with pytest.raises(DataError, match=r"x\.json: this is no whole JSON file"):
        load_dataset(f"coco:{file}")
    monkeypatch.setattr("resnet_jax.data.kinds.coco.MAX_BYTES", 10)
    with pytest.raises(DataError, match="a file of this kind has at most 10"):
        load_dataset(f"coco:{file}")
    file.write_text("[" * 100_000)
    monkeypatch.setattr("resnet_jax.data.kinds.coco.MAX_BYTES", 10**6)
    with pytest.raises(DataError, match="this is no whole JSON file"):
        load_dataset(f"coco:{file}")


def test_splits_must_have_the_same_categories(tmp_path):
    coco(tmp_path / "annotations", tmp_path / "train2017", "instances_train2017.json")
    other = changed(categories=(0, {"name": "horse"}))
    coco(tmp_path / "annotations", tmp_path / "val2017", "instances_val2017.json", other)
    with pytest.raises(DataError, match=r"val2017\.json: its categories are not those of .*train2017\.json"):
        load_dataset(f"coco:{tmp_path}")


def test_a_file_with_its_folder_is_not_gone(tmp_path):
    from resnet_jax.data.source import is_gone

    file = coco(tmp_path, tmp_path, "x.json")
    assert not is_gone(f"coco:{file}@{tmp_path}")
    assert is_gone(f"coco:{tmp_path / 'y.json'}@{tmp_path}")
