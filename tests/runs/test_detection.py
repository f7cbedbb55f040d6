"""Images with boxes from the command line: trained, scored in their own pixels as pycocotools does, written as COCO."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from resnet_jax.cli.main import run as command
from resnet_jax.data import load_dataset
from resnet_jax.data.transform import Geometry
from resnet_jax.runs.directory import RunDirectory

SIDES = (60, 90)


def write_voc(root: Path, lists: dict[str, int], seed: int) -> dict[str, list[tuple[str, list[int]]]]:
    """Write images of bright squares and dark bars in VOC's layout; return stem -> (class, xmin, ymin, xmax, ymax)."""
    rng, truth = np.random.default_rng(seed), {}
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, count in lists.items():
        stems = [f"{split}{number}" for number in range(count)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            image, objects = rng.integers(90, 130, (*SIDES, 3)).astype(np.uint8), []
            for name, colour, shape in (("square", 255, (20, 20)), ("bar", 0, (10, 40))):
                top, left = (int(rng.integers(0, side - own + 1)) for side, own in zip(SIDES, shape, strict=True))
                image[top : top + shape[0], left : left + shape[1]] = colour
                objects.append((name, [left + 1, top + 1, left + shape[1], top + shape[0]]))
            cv2.imwrite(str(root / "JPEGImages" / f"{stem}.png"), image)
            corners = ("xmin", "ymin", "xmax", "ymax")
            written = "".join(
                f"<object><name>{name}</name><difficult>0</difficult><bndbox>"
                + "".join(f"<{corner}>{value}</{corner}>" for corner, value in zip(corners, box, strict=True))
                + "</bndbox></object>"
                for name, box in objects
            )
            size = f"<size><width>{SIDES[1]}</width><height>{SIDES[0]}</height><depth>3</depth></size>"
            (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{written}</annotation>")
            truth[stem] = objects
    return truth


def coco_metrics(truth, said: dict) -> dict[str, float]:
    """Return what pycocotools says of a file of detections, from the boxes as they were written."""
    names = {category["name"]: category["id"] for category in said["categories"]}
    annotations = []
    for image in said["images"]:
        for name, (xmin, ymin, xmax, ymax) in truth[Path(image["file_name"]).stem]:
            box = [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image["id"], "category_id": names[name], "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = {"images": said["images"], "categories": said["categories"], "annotations": annotations}
        true.createIndex()
        evaluation = COCOeval(true, true.loadRes(said["annotations"]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("map", "ap50", "ap75"), evaluation.stats[:3].tolist(), strict=True))


@pytest.mark.slow
def test_boxes_from_voc_to_coco(tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    write_voc(data, {"train": 24, "val": 8}, seed=0)
    small = "--model.stage-sizes 1 1 --model.widths 8 16 --model.stem cifar --model.head-width 16 --model.head-depth 1"
    words = f"train bccd --data voc:{data} --run-dir {run} --data.resize 32 48 --train.length 8epochs {small}"
    assert command([*words.split(), "--model.pyramid-stride", "2", "--data.augment"]) == 0
    assert RunDirectory(run).examples_picture.is_file()
    assert json.loads((run / "summary.json").read_text())["headline"] == "ap50"

    held_back = tmp_path / "held back"
    truth = write_voc(held_back, {"test": 6}, seed=1)
    capsys.readouterr()
    out = ["--out", str(tmp_path / "e.json"), "--json"]
    assert command(["eval", str(run), "--data.source", f"voc:{held_back}", *out]) == 0
    found = json.loads(capsys.readouterr().out)
    said = json.loads((tmp_path / "e.json").read_text())
    assert (found["examples"], found["own_division"], found["classes"]) == (6, False, 2)
    assert {(image["height"], image["width"]) for image in said["images"]} == {SIDES}
    assert [category["name"] for category in said["categories"]] == ["bar", "square"]
    expected = coco_metrics(truth, said)
    assert expected["ap50"] > 0.05
    assert found["metrics"] == pytest.approx(expected, abs=1e-6)

    images = sorted(str(path) for path in (held_back / "JPEGImages").iterdir())
    assert command(["predict", str(run), *images, "--out", str(tmp_path / "p.json")]) == 0
    shown = json.loads((tmp_path / "p.json").read_text())
    strong = [one for one in said["annotations"] if one["score"] >= 0.5]
    np.testing.assert_allclose(
        sorted(one["bbox"] for one in shown["annotations"]), sorted(one["bbox"] for one in strong), atol=1e-2
    )
    assert command(["predict", str(run), images[0], "--out", str(tmp_path / "p.csv")]) == 2
    assert "boxes are written as .json (COCO's format) or .jsonl" in capsys.readouterr().err


def test_a_test_alone_is_a_data_set(tmp_path):
    write_voc(tmp_path / "voc", {"test": 2}, seed=0)
    (tmp_path / "voc" / "Annotations" / "other.xml").write_text("<annotation></annotation>")  # that no list names
    dataset = load_dataset(f"voc:{tmp_path / 'voc'}")
    assert {split: len(records) for split, records in dataset.splits.items()} == {"all": 2}


def test_digits_are_composed_with_boxes_around_their_ink():
    dataset = load_dataset("digits_detection")
    sizes = {split: len(records) for split, records in dataset.splits.items()}
    assert sizes == {"train": 1200, "val": 100, "test": 200}
    for index in range(20):
        example = dataset.splits["test"][index]
        for (top, left, bottom, right), label in zip(example["boxes"].astype(int), example["box_label"], strict=True):
            part = example["image"][top:bottom, left:right, 0] >= 64
            if label >= 0:
                assert all(part[edge].any() for edge in (0, -1))
                assert all(part[:, edge].any() for edge in (0, -1))


@pytest.mark.parametrize("geometry", [Geometry(resize=(24, 40)), Geometry(24), Geometry()])
def test_boxes_go_back_to_the_stored_image(geometry):
    boxes = np.array([[12, 20, 40, 50]], np.float32)
    example = {"image": np.zeros((*SIDES, 3), np.uint8), "boxes": boxes, "box_label": np.zeros(1, np.int32)}
    spec = load_dataset("digits_detection").splits["test"].spec
    seen = geometry.eval_example(example, spec)
    np.testing.assert_allclose(geometry.boxes_as_stored(seen["boxes"], SIDES), boxes, atol=1e-4)
    if geometry.resize is not None:
        assert seen["image"].shape == (24, 40, 3)
