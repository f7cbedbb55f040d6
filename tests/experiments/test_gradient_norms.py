"""The experiment on gradient norms: its arithmetic, and both parts at a size that takes seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.gradient_norms import KINDS, build, growth, main


def test_growth_is_taken_within_stages():
    stages = np.array([0] * 4 + [1] * 5)
    norms = np.concatenate([100 * 1.5 ** -np.arange(4.0), 7 * 1.5 ** -np.arange(5.0)])
    found = growth(norms, stages)
    np.testing.assert_allclose(found["per_block"], 1.5)
    np.testing.assert_allclose(found["first_over_last"], 100 / (7 * 1.5**-4))


@pytest.mark.parametrize("bad", [0.0, np.inf, np.nan])
def test_growth_of_what_vanished_or_overflowed_is_none(bad):
    assert growth(np.array([1.0, bad]), np.array([0, 0])) == {"first_over_last": None, "per_block": None}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_built(kind):
    assert build(kind, 1202).config.num_blocks == 600


@pytest.mark.slow
def test_initial(tmp_path):
    main(["--smoke", "--kinds", "ReZero", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "initial.json").read_text())["rows"]
    norms, stages = np.array(row["grad_norm"]), np.array(row["stage"])
    assert stages.tolist() == [0, 0, 0, 1, 1]
    # a branch that is multiplied by 0 leaves the identity, and the ReLU behind it changes nothing that came from one
    np.testing.assert_allclose(norms[1:3], norms[0], rtol=1e-3)
    assert row["per_block"] == pytest.approx(1.0, abs=1e-3)
    assert "| ReZero | 1" in (tmp_path / "initial.md").read_text()
    assert (tmp_path / "initial.png").stat().st_size > 5_000


@pytest.mark.slow
def test_training(tmp_path):
    main(["--smoke", "--kinds", "plain", "--part", "training", "--steps", "3", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert np.array(row["grad_norm"]).shape == (3, 5)
    assert row["rejected"] == 0
    assert "0 of 3" in (tmp_path / "training.md").read_text()
    assert (tmp_path / "training.png").stat().st_size > 5_000
