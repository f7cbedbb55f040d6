"""A run over images some of which cannot be read: they are skipped, listed, counted, and a resumed run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from resnet_jax.data.unreadable import Unreadable
from resnet_jax.errors import DataError
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.corrupt import CorruptList, read_corrupt
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.evaluate import evaluate_run
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import load_recipe
from tests.tools import few_devices


def write(root: Path, count: int) -> list[Path]:
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        path = root / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", rng.integers(0, 256, (8, 8, 3), np.uint8))[1].tobytes())
        paths.append(path)
    return paths


def config(root: Path, **data: object) -> RunConfig:
    values = {
        "data.source": f"folder:{root}",
        "model.stage_sizes": [1],
        "model.widths": [8],
        "train.length": "4 steps",
        "train.batch_size": 8,
        "train.observers": [],
    }
    return with_values(load_recipe("digits"), values | {f"data.{name}": value for name, value in data.items()})


def test_the_list_has_each_example_once_over_all_sessions(tmp_path):
    path, said = tmp_path / "corrupt.jsonl", []
    lost = {"train": Unreadable("train", 10, 1.0), "test": Unreadable("test", 10, 1.0)}
    lost["train"].add(3, "c.png", "c.png is broken")
    first = CorruptList(path, lost, said.append)
    lost["test"].add(1, "\udce9.png", "\udce9.png is broken")
    assert first.counts == {"train": 1, "test": 1}
    with path.open("a") as file:
        file.write('{"split": "tr')  # cut off as by a full disk
    again = CorruptList(path, {"train": Unreadable("train", 10, 1.0)}, said.append)
    assert again.counts == {"train": 1, "test": 1}
    assert [entry.index for entry in read_corrupt(path)] == [3, 1]
    assert len(said) == 1
    assert again.said({"train": 10, "test": 10}) == (
        "train: 9 of 10 read; 1 could not be read and was skipped",
        "test: 9 of 10 scored; 1 could not be read and was skipped",
    )


@pytest.mark.slow
def test_a_run_skips_what_cannot_be_read_and_says_so(tmp_path):
    root = tmp_path / "set"
    paths = write(root, 60)
    for number in (7, 20):
        paths[number].write_bytes(paths[number].read_bytes()[:40])
    paths[33].write_bytes(b"")
    run = tmp_path / "run"
    with few_devices(1):
        with pytest.raises(DataError, match=r"033.png: the file is empty"):
            fit(config(root), run)
        with pytest.raises(DataError, match=r"examples cannot be read, more than the 0.01 of them"):
            fit(config(root, on_corrupt="skip"), run)
        skipping = config(root, on_corrupt="skip", max_corrupt=0.3)
        summary = fit(skipping, run).summary
        listed = [json.loads(line) for line in (run / "corrupt.jsonl").read_text().splitlines()]
        assert {Path(entry["where"]).name for entry in listed} == {"007.png", "020.png", "033.png"}
        assert sum(summary.skipped.values()) == 3
        assert json.loads((run / "summary.json").read_text())["skipped"] == summary.skipped
        for split, count in summary.skipped.items():
            assert any(note.startswith(f"{split}: ") and f"; {count} could not be" in note for note in summary.notes)
        found = evaluate_run(run, "all", source=f"folder:{root}", logits=True)
        assert found.examples == 57
        assert [entry.where for entry in found.skipped] == [
            str(paths[n]) for n in sorted((7, 20, 33), key=lambda n: (n % 2, n))
        ]
        assert found.logits is not None
        assert np.isnan(found.logits).any(axis=1).sum() == 3
        assert any(line.startswith("all: 57 of 60 scored") for line in found.notes)
