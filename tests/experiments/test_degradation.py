"""The degradation experiment, small: it trains, counts and draws; the table is a fact of the numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import degradation
from resnet_jax.runs.config import differences


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("degradation")
    degradation.main(["--smoke", "--out", str(folder / "out"), "--runs", str(folder / "runs")])
    return folder / "out"


@pytest.mark.slow
def test_every_run_is_measured_by_its_own_files(out):
    rows = json.loads((out / "results.json").read_text())
    assert [(row["kind"], row["depth"], row["seed"]) for row in rows] == [("resnet", 110, 0), ("plain", 110, 0)]
    for row in rows:
        assert row["steps"] == 4
        assert 0 <= row["final_training_error"] <= 1
        assert row["training_error"] == row["curve"]["error"][-1]
        lines = [json.loads(line) for line in (out / f"{row['kind']}110-depth.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines[1:]] == [1, 2, 3, 4]
        first, *_, last = (line["grad_norm"] for line in lines[1:])
        np.testing.assert_allclose(row["gradient_ratio_first"], first[0] / first[-1])
        np.testing.assert_allclose(row["gradient_ratio_last"], last[0] / last[-1])
    assert rows[0]["training_loss"] != rows[1]["training_loss"]


@pytest.mark.slow
def test_pictures_are_written(out):
    for name in ("training-error.png", "gradients.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_table_is_mean_and_deviation_over_seeds():
    row = {"kind": "plain", "depth": 20, "test_error": 0.5, "final_training_error": 0.25}
    ratios = {"gradient_ratio_first": 2.0, "gradient_ratio_last": 8.0}
    rows = [{**row, **ratios, "training_error": 0.1}, {**row, **ratios, "training_error": 0.3}]
    rows[1]["gradient_ratio_first"] = 8.0
    last = degradation.table(rows).splitlines()[-1]
    assert last == "| plain 20 | 20.0 ± 14.1 | 25.0 ± 0.0 | 50.0 ± 0.0 | 4 | 8 |"  # ratios: geometric mean


def test_runs_differ_in_what_is_compared_and_in_nothing_else():
    study = degradation.smoke()
    plain, residual = (study.config(kind, 110, 0) for kind in ("plain", "resnet"))
    assert differences(plain, residual) == ["model.name: plain110_cifar -> resnet110_cifar"]
    assert differences(plain, study.config("plain", 110, 1)) == ["seed: 0 -> 1"]
    assert differences(plain, study.config("plain", 20, 0)) == ["model.name: plain110_cifar -> plain20_cifar"]
