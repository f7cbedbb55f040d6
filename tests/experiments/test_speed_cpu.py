"""The CPU speed run at its smoke size, and what the PyTorch side is told."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from experiments import speed_cpu
from resnet_jax.data.augmentations.flip import mirrored_in
from resnet_jax.runs.data import load_images
from resnet_jax.runs.promise import smoke_config
from resnet_jax.runs.recipes import load_about, load_recipe
from resnet_jax.training.schedules import make_schedule


@pytest.mark.slow
def test_smoke(tmp_path):
    speed_cpu.main(["--smoke", "--out", str(tmp_path), "--parts", "--only", "whole", "--only", "no-lookahead"])
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["images"]) for row in rows] == [("whole", "192"), ("no-lookahead", "192")]
    whole, without = (json.loads((tmp_path / f"{row['name']}.json").read_text()) for row in rows)
    assert (whole["optim"]["lookahead"]["every"], without["optim"]["lookahead"]["every"]) == (5, None)
    assert str(tmp_path) not in json.dumps(whole)


def test_the_other_side_is_told_the_recipe(tmp_path):
    config, about = load_recipe(speed_cpu.RECIPE), load_about(speed_cpu.RECIPE)
    spec = speed_cpu.specification(config, speed_cpu.Budget(600.0), 15.0, compile=False)
    assert (spec["pad"], spec["flip"], spec["block"], spec["lookahead_every"]) == (2, "alternating", "basic", 5)
    assert (spec["norm_bias_rate"], spec["weight_decay"], spec["steps"]) == (64.0, 0.00133, None)
    json.dumps(spec)
    assert about is not None
    images = load_images(smoke_config(config, about, "x"))
    speed_cpu.write_arrays(images, 2, tmp_path / "data.npz")
    with np.load(tmp_path / "data.npz") as arrays:
        count = len(arrays["train_labels"])
        assert arrays["train_images"].shape[1:] == images.card.image_shape
        np.testing.assert_array_equal(
            arrays["mirrored_first"], mirrored_in(np.arange(count), np.zeros(count, np.int32))
        )


def test_the_other_side_has_our_schedule():
    """What ``Training.rate`` of the PyTorch side computes, written out again, is the library's one cycle."""
    config, total = load_recipe(speed_cpu.RECIPE), 200
    ours = make_schedule(config.optim.schedule, 1.0, steps_per_epoch=100, total_steps=total)
    spec = speed_cpu.specification(config, speed_cpu.Budget(1.0), 1.0, compile=False)
    div, turn = spec["div_factor"], round(spec["peak"] * total) - 1
    low = 1 / (div * spec["final_div_factor"])
    up = [1 / div + (1 - 1 / div) * step / turn for step in range(turn + 1)]
    down = [low + (1 - low) * (total - 1 - step) / (total - 1 - turn) for step in range(turn + 1, total)]
    np.testing.assert_allclose(ours(np.arange(total)), up + down, rtol=1e-4, atol=1e-6)
