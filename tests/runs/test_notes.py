"""What was left out of the data, and which folder became what, is said by every verb that looks at images."""

from __future__ import annotations

import dataclasses
import io

import cv2
import numpy as np
import pytest
from rich.console import Console

from resnet_jax.ablation.run import _ImagesOnce
from resnet_jax.cli.main import run as command
from resnet_jax.models import ResNetConfig
from resnet_jax.models.rows import MODELS, NamedModel
from resnet_jax.runs.config import DataConfig
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.training.schedules import ScheduleConfig

NOTES = (
    "2 of 52 files skipped because they are not images: 1 .xyz, 1 .txt",
    "2 of 50 images lie in subfolders of their class folder: Train/cat/more",
    "splits: train from Train but 10 % by class, which are val; test from valid, the final test, used for no decision",
)
MISFIT = (
    "recipe digits was made for 8x8 grey images of 10 digits; these are 120x110x3 images of 2 classes, brought to 8x8."
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Train/ and valid/ with two classes, two images in a subfolder and two files that are none."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for folder, count in (("Train", 20), ("valid", 5)):
        for name in ("cat", "dog"):
            for i in range(count):
                below = "more" if (folder, name) == ("Train", "cat") and i < 2 else ""
                (root / folder / name / below).mkdir(parents=True, exist_ok=True)
                image = rng.integers(0, 256, (120, 110, 3), np.uint8)
                (root / folder / name / below / f"{i}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    (root / "Train" / "dog" / "a.xyz").write_bytes(b"\0\1")
    (root / "valid" / "cat" / "read me.txt").write_text("text")
    return root


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    """A run of one step on them, and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            MODELS, "tiny", NamedModel(ResNetConfig((1,), (8,), stem="cifar", norm_groups=4), 8, "these tests")
        )
        config = load_recipe("digits")
        config = dataclasses.replace(
            config,
            model=config.model.replace(name="tiny"),
            data=DataConfig(source=f"folder:{photographs}", image_size=8),
            train=dataclasses.replace(config.train, limit="1 steps", batch_size=8),
            optim=dataclasses.replace(config.optim, schedule=ScheduleConfig()),
        )
        said, run_dir = io.StringIO(), tmp_path_factory.mktemp("run") / "tiny"
        fit(config, run_dir, console=Console(file=said, width=1000))
        yield config, run_dir, said.getvalue()


@pytest.mark.slow
def test_train_says_them_and_keeps_them(trained):
    _, run_dir, said = trained
    for note in (*NOTES, MISFIT):
        assert f"     note  {note}" in said
    lines = (run_dir / "notes.txt").read_text().splitlines()
    assert tuple(lines[:3]) == NOTES
    assert lines[3].startswith(MISFIT)
    assert len(lines) == 4


def test_ablate_says_them_once(trained):
    said: list[str] = []
    load = _ImagesOnce(said.append)
    for cutout in (0, 1):
        load(
            dataclasses.replace(trained[0], data=dataclasses.replace(trained[0].data, augment=("cutout(2)",) * cutout))
        )
    assert tuple(said[:3]) == tuple(f"note  {note}" for note in NOTES)
    assert said[3].startswith(f"note  {MISFIT}")
    assert len(said) == 4


def test_eval_says_them_of_its_own_data_and_of_another_source(trained, photographs, capsys):
    _, run_dir, _ = trained
    assert command(["eval", str(run_dir)]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == list(NOTES)
    assert command(["eval", str(run_dir), "--data.source", f"folder:{photographs}/Train"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "1 of 41 files skipped because they are not images: 1 .xyz",
        "2 of 40 images lie in subfolders of their class folder: cat/more",
    ]


@pytest.mark.slow
def test_depth_says_them(trained, tmp_path, capsys):
    _, run_dir, _ = trained
    assert command(["depth", "profile", str(run_dir), "--batch", "4", "--out", str(tmp_path / "out")]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("images  "))
    assert all(note in said for note in NOTES)
