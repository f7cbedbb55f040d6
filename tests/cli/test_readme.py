"""Every command of the README, typed as it stands there, and its Python."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.deploy.serve.tools import there
from tests.tools import TINY

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(one, comments=True) for one in re.findall(r"uv run (resnet-jax [^\n`]*)", README)]
#: What makes a command of the README short enough for a test; a command that is not here runs as it stands.
SHORTER = {
    "train digits": ("--train.length", "1 epochs", *TINY, "--run-dir", "runs/digits"),
    "train --data": ("--fast-dev-run", "1"),
    "finetune runs/digits": ("--train.length", "1 epochs"),
    "depth profile": ("--batch", "8"),
    "ablate digits": ("--train.length", "1 epochs", *TINY),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder to type in, with one image and a folder of images of two classes."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    for number, (image, label) in enumerate(zip(images[:160], labels[:160], strict=True)):
        if label < 2:
            path = tmp_path / "PATH" / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), (16 * image.clip(0, 15)).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "some.png"), (16 * images[0].clip(0, 15)).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(command: list[str]) -> str:
    """What a command is known by here."""
    return " ".join(command[1:3])


def test_the_readme_has_these_commands():
    assert {words(command) for command in COMMANDS} == {
        "train digits", "train --data", "finetune runs/digits", "predict runs/digits", "depth profile", "ablate digits",
        "export runs/digits", "serve runs/digits", "doctor", "help",
    }  # fmt: skip


@pytest.mark.slow
def test_every_command_as_it_stands(folder, command):
    assert COMMANDS[0] == ["resnet-jax", "train", "digits"]
    for typed in COMMANDS:
        if typed[1] == "serve":
            continue  # below, in a process of its own
        shorter = SHORTER.get(words(typed), ())
        status, out, err = command(*typed[1:], *(shorter[:-2] if "--run-dir" in typed else shorter))
        assert status == 0, (typed, out[-2000:], err[-2000:])
    for left in ("runs/digits/curves.png", "runs/depth/depth.png", "look/report.html", "net.onnx"):
        assert (folder / left).stat().st_size > 1000, left
    with there(["-m", "resnet_jax", "serve", "runs/digits", "--port", "0"], folder, seconds=300) as process:
        found = httpx.post(process.url + "/predict", content=(folder / "some.png").read_bytes(), timeout=30)
        assert len(found.json()["images"][0]["classes"]) >= 3
        assert process.stop() == 143


@pytest.mark.slow
def test_its_python(folder):
    (snippet,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    names: dict[str, object] = {}
    exec(snippet, names)
    assert np.isfinite(float(names["metrics"]["loss"]))  # type: ignore[index]
