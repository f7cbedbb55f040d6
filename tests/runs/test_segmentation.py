"""Networks of pixels in runs: scored on folders at the labels' own size, written as label files, trained and drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.report.pixel_files import PixelFiles
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.evaluate import evaluate_run, load_run
from resnet_jax.runs.fit import fit
from resnet_jax.runs.predict import Predictor
from resnet_jax.runs.promise import smoke_config
from resnet_jax.runs.recipes import load_about, load_recipe
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.training.config import TrainConfig
from tests.tools import random_variables

MEAN, STD, SHAPE, NAMES = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), (12, 16, 3), ("sky", "road", "tree")


@pytest.fixture(scope="module")
def trained():
    """A network that sees images at half their sides, with random weights."""
    config = RunConfig(
        model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,), norm="none", head_width=4),
        data=DataConfig(source="masks:gone", void_value=9, downscale=2),
        train=TrainConfig(batch_size=4),
    )
    card = DatasetInfo(
        NAMES, SHAPE, MEAN, STD, {}, label_kind="segmentation", meanings={"segmentation": "mask"}, downscale=2
    )
    model = build_model(config, card)
    assert (model.config.head, model.config.num_classes) == ("fpn", 3)
    return TrainedRun(config, card, model, random_variables(model, SHAPE), 0, Path("net"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images and masks as SegNet lays them out, a test split alone; 9 is void."""
    root, rng = tmp_path_factory.mktemp("masks"), np.random.default_rng(0)
    for name in ("test", "testannot"):
        (root / name).mkdir()
    images = rng.integers(0, 256, (6, *SHAPE)).astype(np.uint8)
    masks = rng.choice(np.array([0, 1, 2, 9], np.uint8), (6, *SHAPE[:2]))
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        cv2.imwrite(str(root / "test" / f"{number}.png"), image[..., ::-1])
        cv2.imwrite(str(root / "testannot" / f"{number}.png"), mask)
    return root, images, masks


def by_hand(trained, images):
    """Return the classes of pixels, without any of the library's preparation."""
    x = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    x = x.reshape(len(x), SHAPE[0] // 2, 2, SHAPE[1] // 2, 2, 3).mean(axis=(2, 4))
    outputs = jax.jit(lambda v, x: trained.model.apply(v, x, train=False))(trained.variables, x)
    sides = (SHAPE[1], SHAPE[0])
    return np.stack([cv2.resize(np.asarray(each), sides, interpolation=cv2.INTER_LINEAR) for each in outputs]).argmax(
        -1
    )


def test_a_folder_of_another_split_is_scored_at_the_size_of_its_masks(trained, folder):
    root, images, masks = folder
    found, matrix = by_hand(trained, images), np.zeros((3, 3), np.int64)
    known = masks != 9
    np.add.at(matrix, (masks[known], found[known]), 1)
    result = evaluate_run(trained, "test", source=f"masks:{root}")
    np.testing.assert_array_equal(result.confusion.dense(), matrix)
    assert (result.examples, result.split, result.classes) == (6, "all", 3)
    flipped = evaluate_run(trained, "test", source=f"masks:{root}", views="flip")
    assert flipped.confusion.counts.sum() == known.sum()
    assert flipped.said[-1] == "averaged over 2 views: the image and its mirror image"


def test_classes_are_matched_by_name(trained, folder, tmp_path):
    root, images, masks = folder
    (tmp_path / "classes.txt").write_text("road\ntree\nsky\n")
    data = dataclasses.replace(trained.config.data, class_list=str(tmp_path / "classes.txt"))
    other = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data=data))
    result = evaluate_run(other, "test", source=f"masks:{root}")
    found, matrix, known = by_hand(trained, images), np.zeros((3, 3), np.int64), masks != 9
    np.add.at(matrix, (np.array([1, 2, 0])[masks[known]], found[known]), 1)
    np.testing.assert_array_equal(result.confusion.dense(), matrix)
    (tmp_path / "classes.txt").write_text("road\ntree\nsea\n")
    with pytest.raises(UsageError, match="classes of pixels that the network does not know: sea"):
        evaluate_run(other, "test", source=f"masks:{root}")


def test_label_files_have_the_classes_at_the_size_of_the_image(trained, folder, tmp_path):
    root, images, _ = folder
    paths = [str(path) for path in sorted((root / "test").iterdir())]
    predictor, files = Predictor(trained, (4,)), PixelFiles(tmp_path / "out")
    for path, image, wanted in zip(paths, images, by_hand(trained, images), strict=True):
        (said,) = predictor.predict([path], top=3)
        shares = np.bincount(wanted.ravel(), minlength=3) / wanted.size
        assert dict(zip(said.classes, said.probabilities, strict=True)) == {
            name: share for name, share in zip(NAMES, shares, strict=True) if share
        }
        files.add(path, said.fields["segmentation"], image)
        stored = cv2.imread(str(tmp_path / "out" / f"{Path(path).stem}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(stored, wanted)
    files.add("elsewhere/0.jpg", said.fields["segmentation"], images[0])
    assert {"0.png", "0_overlay.png", "0-2.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.slow
def test_composed_scenes_are_trained_tested_and_drawn(tmp_path):
    about = load_about("digits-segmentation")
    assert about is not None
    config = smoke_config(load_recipe("digits-segmentation"), about, "digits-segmentation")
    fit(config, run_dir=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert kept["headline"] == "miou"
    assert set(kept["per_class"]) == {"iou", "class_accuracy"}
    assert len(kept["per_class"]["iou"]) == 11
    for name in ("curves.png", "confusion.png", "examples.png"):
        assert (tmp_path / "run" / name).stat().st_size > 5_000
    again = evaluate_run(load_run(tmp_path / "run"), "test")
    assert again.metrics["miou"] == kept["test_miou"]
    tiles = evaluate_run(load_run(tmp_path / "run"), "test", views="sliding")
    assert tiles.examples == 120
