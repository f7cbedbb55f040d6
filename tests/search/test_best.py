"""The best trial as a recipe file: read back as the same run, whatever was changed."""

from __future__ import annotations

import dataclasses

import pytest

from resnet_jax.runs.carried import with_options
from resnet_jax.runs.config import differences
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.search.best import write_recipe


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.learning_rate": 0.0312345678901},
        {"optim.momentum": None, "optim.nesterov": None, "train.length": "3 epochs"},
        {"model.widths": [8, 16, 32], "data.mean": [0.5], "data.std": [0.25], "seed": 4},
        {"optim.schedule.warmup": None, "task.label_smoothing": 0.1},
    ],
)
@pytest.mark.parametrize("recipe", ["digits", "cifar10-resnet20", "of my own"])
def test_it_is_read_back_as_the_same_run(tmp_path, changes, recipe):
    base = load_recipe("digits" if recipe == "of my own" else recipe)
    if recipe == "of my own":
        base = dataclasses.replace(base, recipe="somewhere/mine.yaml")
    config = with_options(base, {key: value for key, value in changes.items() if key in ("seed",) or value != ""})
    path = tmp_path / "best.yaml"
    write_recipe(path, config, ["Trial 3 of a search.", "It was the best."])
    assert [line for line in differences(config, load_recipe(str(path))) if not line.startswith("recipe:")] == []
    text = path.read_text()
    assert text.startswith("# Trial 3 of a search.\n# It was the best.\n")
    assert ("extends: " in text) == (recipe != "of my own") or None in changes.values()
    assert [file.name for file in tmp_path.iterdir()] == ["best.yaml"]
