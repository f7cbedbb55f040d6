"""Depth instruments on a run of every kind: gradients while it trains, its profile, and its lesions."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cli.conftest import last_json

#: Recipe -> whether every example is right or wrong.
KINDS = {
    "digits-1d": True, "digits-3d": True, "digits-segmentation": False, "digits-detection": False,
    "digits-multitask": False,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", KINDS)
def test_every_kind_of_run_is_looked_at(recipe, tmp_path, command):
    run = tmp_path / "run"
    status, _, err = command("train", recipe, "--smoke", "--train.depth-every", "1 steps", "--run-dir", run)
    assert status == 0, err
    assert (run / "depth.png").is_file()
    status, out, err = command("depth", "profile", run, "--batch", "4", "--json")
    assert status == 0, err
    with np.load(run / "depth" / "profile" / "profile.npz") as kept:
        assert np.isfinite(kept["grad_norm"]).all()
    status, out, err = command("depth", "lesion", run, "--batch", "6", "--at-once", "4", "--draws", "1", "--json")
    assert status == 0, err
    found = last_json(out)
    assert (found["accuracy"] is not None) == KINDS[recipe]
    assert np.isfinite(found["loss"])
