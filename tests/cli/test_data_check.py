"""``resnet-jax data check``: what it prints, and its exit status."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from resnet_jax.cli.main import run


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            for number in range(3):
                path = tmp_path / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(0, 256, (9, 9, 3), np.uint8))
    return tmp_path


def test_a_path_is_enough_and_0_means_passed(folder, capsys):
    assert run(["data", "check", str(folder), "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert found["ok"]
    assert found["source"] == f"folder:{folder}"
    assert found["counts"] == {"train": [3, 3], "test": [3, 3]}


def test_leaks_and_unreadable_files_are_1_and_near_ones_if_strict(folder, capsys):
    image = cv2.imread(str(folder / "train" / "a" / "0.png"))
    cv2.imwrite(str(folder / "test" / "a" / "near.png"), (image * 0.9).astype(np.uint8))
    assert run(["data", "check", f"folder:{folder}"]) == 0
    assert "nearly the same in two splits: 1" in capsys.readouterr().out
    assert run(["data", "check", f"folder:{folder}", "--strict"]) == 1
    assert "did not pass: 1 pairs of nearly the same images lie in two splits" in capsys.readouterr().err
    cv2.imwrite(str(folder / "test" / "a" / "leak.png"), image)
    (folder / "test" / "b" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run(["data", "check", f"folder:{folder}", "--json"]) == 1
    said = capsys.readouterr()
    assert "1 of 14 examples cannot be read; 1 inputs are in two splits or more" in said.err
    found = json.loads(said.out.splitlines()[-1])
    assert found["unreadable"]["listed"][0][1].endswith("test/b/0.png")
    assert not found["ok"]


def test_wrong_usage(tmp_path, capsys):
    assert run(["data", "check", "folder:nowhere"]) == 1
    assert run(["data", "check", "digits", "--near", "99"]) == 2
    assert "near must be in [0, 16]" in capsys.readouterr().err
    assert run(["data", "check", "digits", "--void-value", "0"]) == 2
