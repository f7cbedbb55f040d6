"""A short version of the experiment that kills trainings, and of the one that watches what a process holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.chaos import Setting, composed_cifar, summed, surplus
from experiments.flat import long_run
from resnet_jax.data import load_dataset

ROOT = Path(__file__).resolve().parents[2]


def test_surplus_counts_what_is_missing_and_what_is_there_twice():
    once = {"metrics": [{"step": 1}, {"step": 2}], "depth": [], "scalars": [("loss", 1, 0.5)]}
    other = {"metrics": [{"step": 1}, {"step": 1}], "depth": [], "scalars": [("loss", 1, 0.5)] * 2}
    assert surplus(once, once) == (0, 0)
    assert surplus(other, once) == (1, 2)


def test_figures_add_up_over_runs():
    rows = [
        {"setting": "a", "kills": [{"early": True}, {"early": False}], "identical": True, "repeated": [3, 10]},
        {"setting": "b", "kills": [{"early": False}], "identical": False, "status": 1},
    ]
    found = summed(rows)
    assert (found["kills"], found["identical"], found["repeated_steps"], found["most_repeated"]) == (3, 2, 13, 10)


def test_the_composed_images_are_read_as_cifar_10(tmp_path):
    data = load_dataset(composed_cifar(tmp_path))
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 1200, "test": 240}
    assert data.class_names[0] == "airplane"


def test_every_setting_trains_with_the_same_words_each_time(tmp_path):
    words = Setting("cifar", 2, "cifar:x").command(tmp_path)
    assert words[1:7] == ["-m", "resnet_jax", "launch", "--local", "2", "--"]
    assert words == Setting("cifar", 2, "cifar:x").command(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "kills"), [("cifar-1", 2), ("digits-2", 1)])
def test_a_run_that_is_killed_ends_as_one_that_is_not(setting, kills, tmp_path):
    words = ["--kills", str(kills), "--per-run", str(kills), "--settings", setting]
    command = [sys.executable, "experiments/chaos.py", *words]
    done = subprocess.run([*command, "--work", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=900)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stderr[-3000:]
    assert figures["identical"] == figures["kills"] >= kills
    assert figures["lost_steps"] == figures["doubled_steps"] == 0
    assert figures["most_repeated"] <= 2 * figures["save_interval"]  # one, and what was made while the last was written


@pytest.mark.slow
def test_threads_and_open_files_are_flat(tmp_path):
    figures = long_run(tmp_path, 200, 20)
    assert figures["files"][2] <= figures["files"][0] + 4
    assert figures["threads"][2] <= figures["threads"][0] + 4
