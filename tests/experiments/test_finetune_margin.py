"""The data sets of the fine-tuning experiment, cut out of small archives in the layouts of the real ones."""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

import cv2
import numpy as np

from experiments import finetune_margin as script


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_patches_are_of_the_class_of_their_middle(tmp_path):
    mask = np.full((96, 120), 11, np.uint8)  # void counts nowhere
    mask[:, :60], mask[:, 60:110] = 3, 0  # road, sky
    image = np.zeros((96, 120, 3), np.uint8)
    image[mask == 3], image[mask == 0] = (0, 0, 200), (200, 0, 0)  # as OpenCV writes: red road, blue sky
    names = {
        f"camvid/{split}{kind}/a.png": data
        for split in ("train", "val")
        for kind, data in (("", png(image)), ("annot", png(mask)))
    }
    found = script.camvid(archive(tmp_path / "camvid.tar", names), "train", 20, 0)
    assert {name for _, name in found} == {"road", "sky"}
    for patch, name in found:
        assert patch.shape == (32, 32, 3)
        assert (patch[16, 16].argmax() == 0) == (name == "road"), "colours are RGB"
    assert len(script.at_most(found, 5)) == 10


def test_cells_are_the_boxes_of_the_split(tmp_path):
    image = np.zeros((100, 100, 3), np.uint8)
    image[20:40, 30:50] = 255
    corners = "<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    boxes = "".join(
        f"<object><name>{name}</name><bndbox>{corners.format(x=x, y=y, right=x + 20, bottom=y + 20)}</bndbox></object>"
        for name, x, y in (("WBC", 30, 20), ("RBC", 0, 60))
    )
    files = {
        "bccd/JPEGImages/one.jpg": png(image),
        "bccd/Annotations/one.xml": f"<annotation>{boxes}</annotation>".encode(),
        "bccd/ImageSets/Main/train.txt": b"one\n",
        "bccd/ImageSets/Main/val.txt": b"",
    }
    path = archive(tmp_path / "bccd.tar", files)
    found = {name: crop for crop, name in script.cells(path, "train")}
    assert set(found) == {"WBC", "RBC"}
    assert (found["WBC"].min(), found["RBC"].max()) == (255, 0)
    assert script.cells(path, "val") == []


def test_cases_are_made_once_and_tested_on_other_images(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "test" / kind).mkdir(parents=True)
        for index in range(210):
            value = (index if kind == "cat" else 255 - index) * np.ones((32, 32, 3), np.uint8)
            (tmp_path / "test" / kind / f"{index:04}.jpg").write_bytes(png(value.astype(np.uint8)))
    args = argparse.Namespace(
        cases=["jpeg-cifar-8", "blood-cells"], work=tmp_path, cifar=tmp_path, camvid=None, cells=None
    )
    made = script.make_cases(args)
    assert list(made) == ["jpeg-cifar-8"], "a case whose data is not given is left out"
    with np.load(made["jpeg-cifar-8"]) as arrays:
        assert arrays["class_names"].tolist() == ["cat", "dog"]
        assert (arrays["x_train"].shape, arrays["x_test"].shape) == ((16, 32, 32, 3), (400, 32, 32, 3))
        train, test = (
            set(arrays[f"x_{split}"][arrays[f"y_{split}"] == 0][:, 0, 0, 0].tolist()) for split in ("train", "test")
        )
        assert train == set(range(202, 210))
        assert not train & test
    assert script.make_cases(args) == made
