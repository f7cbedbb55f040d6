"""``features`` writes what the network makes of every image, in order, with labels where there are any."""

from __future__ import annotations

import io
import os

import cv2
import jax
import numpy as np
import pytest

from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.directory import DatasetInfo
from tests.cli.conftest import last_json
from tests.tools import random_variables, write_network, write_run

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An imported network without a classifier, 40 images in an npz and five of them as files."""
    folder = tmp_path_factory.mktemp("features")
    config = RunConfig(model=ModelSpec("resnet20_cifar", num_classes=0, stage_sizes=(1, 1), widths=(4, 8), norm="none"))
    card = DatasetInfo((), (8, 8, 3), MEAN, STD, {})
    model = build_model(config, card)
    variables = random_variables(model, (8, 8, 3))
    write_network(folder / "net", config, card, variables)
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    np.savez(folder / "all.npz", x_train=images[:30], y_train=np.arange(30) % 2, x_test=images[30:],
             y_test=np.arange(10) % 2, class_names=np.array(["ant", "bee"]))  # fmt: skip
    (folder / "shots").mkdir()
    for index, image in enumerate(images[:5]):
        cv2.imwrite(str(folder / "shots" / f"{index}.png"), image[..., ::-1])
    x = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    apply = jax.jit(lambda variables, x: model.apply(variables, x, train=False, method="features"))
    return folder, {name: np.asarray(array) for name, array in apply(variables, x).items()}


@pytest.mark.parametrize(("part", "shape"), [("pooled", (40, 8)), ("stage1", (40, 8, 8, 4)), ("final", (40, 4, 4, 8))])
def test_of_a_data_source_every_split_comes_with_labels(place, tmp_path, command, part, shape):
    folder, expected = place
    argv = ("features", folder / "net", f"npz:{folder / 'all.npz'}", "--out", tmp_path / "f.npz", "--part", part)
    status, out, err = command(*argv, "--json")
    assert (status, err.count("error")) == (0, 0), err
    assert last_json(out) == {"out": str(tmp_path / "f.npz"), "part": part, "features": list(shape), "failed": 0}
    with np.load(tmp_path / "f.npz") as found:
        assert found["features"].shape == shape
        np.testing.assert_allclose(found["features"], expected[part], rtol=1e-4, atol=1e-5)
        assert found["split"].tolist() == ["train"] * 30 + ["test"] * 10
        assert found["label"].tolist() == [*(index % 2 for index in range(30)), *(index % 2 for index in range(10))]
        assert found["class_names"].tolist() == ["ant", "bee"]
        assert found["image"][31].startswith("index 1 of ")


def test_of_files_what_cannot_be_read_is_named_and_left_out(place, tmp_path, command, monkeypatch):
    folder, expected = place
    (tmp_path / "bad.png").write_text("no image")
    listed = os.fsencode(folder / "shots" / "1.png") + b"\n" + os.fsencode(tmp_path / "bad.png") + b"\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed)))
    argv = ("features", folder / "net", folder / "shots", "-", "--out", tmp_path / "f.npz", "--batch-size", "4")
    status, _, err = command(*argv)
    assert status == 1
    assert f"1 of 7 images could not be read: {tmp_path / 'bad.png'}" in err
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["features"], expected["pooled"][[0, 1, 2, 3, 4, 1]], rtol=1e-4, atol=1e-5)
        assert [os.path.basename(path) for path in found["image"]] == [*(f"{i}.png" for i in range(5)), "1.png"]
        assert (set(found["label"]), set(found["split"])) == ({-1}, {""})


def test_of_a_run_its_own_images_come_as_it_divided_them(place, tmp_path, command):
    folder, _ = place
    config = RunConfig(
        model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,)),
        data=DataConfig(f"npz:{folder / 'all.npz'}", val_fraction=0.2),
    )
    write_run(tmp_path / "run", config)
    status, _, err = command("features", tmp_path / "run", "--out", tmp_path / "f.npz")
    assert status == 0, err
    with np.load(tmp_path / "f.npz") as found:
        assert found["features"].shape == (40, 4)
        assert [int((found["split"] == split).sum()) for split in ("train", "val", "test")] == [24, 6, 10]


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["x.png"], 2, "say where to write"),
        (["x.png", "--out", "f.txt"], 2, "features are written as .npz"),
        (["x.png", "--out", "f.npz", "--part", "stage3"], 2, "unknown part of the network 'stage3'"),
        (["--out", "f.npz"], 2, "was imported: it has no images of its own"),
        (["gone.png", "--out", "f.npz"], 1, "no image could be read; nothing is written"),
        (["*.nothing", "--out", "f.npz"], 1, "no file matches this pattern"),
    ],
)
def test_what_cannot_be_is_said(place, tmp_path, command, monkeypatch, argv, status, said):
    monkeypatch.chdir(tmp_path)
    found, _, err = command("features", place[0] / "net", *argv)
    assert (found, said in err) == (status, True), err
    assert list(tmp_path.iterdir()) == []
