"""``resnet-jax checkpoints``: what is listed, and what is found damaged."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.runs.checkpoints import list_checkpoints
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.manifest import MANIFEST, Score
from resnet_jax.training.state import TrainState


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """A run directory as far as its checkpoints go: three, one set aside and one half-written."""
    (tmp_path / "config.yaml").write_text("recipe: digits\n")
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (10, 20):
            state = TrainState(jnp.int32(step), {"w": jnp.full(3, float(step))}, {}, {}, jax.random.key(0))
            checkpoints.save("last", state, {"step": step}, score=Score("accuracy", 0.5))
    (folder / "last" / "30.partial").mkdir()
    (folder / "damaged" / "last-5").mkdir(parents=True)
    return tmp_path


def test_all_are_listed_with_what_they_are(command, run_dir):
    status, out, err = command("checkpoints", str(run_dir))
    assert (status, err) == (0, "")
    head, *rows = [line.split() for line in out.splitlines()]
    assert head == ["kind", "step", "metric", "size", "age", "state"]
    assert [row[:2] for row in rows] == [["last", "10"], ["last", "20"], ["best", "10"], ["last", "30"], ["last", "5"]]
    assert rows[2][2:4] == ["accuracy", "0.5"]
    assert all("complete (not verified)" in " ".join(row) for row in rows[:3])
    assert [" ".join(row[6:]) for row in rows[3:]] == [
        "unfinished: last/30.partial", "set aside: damaged/last-5",
    ]  # fmt: skip


def test_verified_and_damaged(command, run_dir):
    status, out, _ = command("checkpoints", str(run_dir), "--verify", "--json")
    found = json.loads(out)
    assert (status, found["damaged"]) == (0, 0)
    assert [row["state"] for row in found["checkpoints"]] == [*["complete"] * 3, "unfinished", "set aside"]
    assert all(row["verified"] for row in found["checkpoints"][:3])
    file = next((run_dir / "checkpoints" / "last" / "20" / "state").rglob("d/*"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    (run_dir / "checkpoints" / "best" / "10" / MANIFEST).unlink()
    before = sorted(run_dir.rglob("*"))
    status, out, err = command("checkpoints", str(run_dir), "--verify", "--json")
    found = json.loads(out)
    assert (status, found["damaged"]) == (1, 2)
    assert "2 of 5 checkpoints" in err
    notes = {row["path"]: row["note"] for row in found["checkpoints"] if row["state"] == "damaged"}
    assert notes["best/10"] == "manifest.json is missing"
    assert file.name in notes["last/20"]
    assert sorted(run_dir.rglob("*")) == before


def test_a_cell_of_an_ablation_lists_those_of_its_populations(run_dir):
    (run_dir / "checkpoints" / "seeds-0-3").mkdir()
    for kind in ("last", "best"):
        (run_dir / "checkpoints" / kind).rename(run_dir / "checkpoints" / "seeds-0-3" / kind)
    found = [one.path for one in list_checkpoints(run_dir) if one.state == "complete"]
    assert found == ["seeds-0-3/last/10", "seeds-0-3/last/20", "seeds-0-3/best/10"]


def test_no_checkpoints_and_no_run(command, tmp_path):
    (tmp_path / "config.yaml").write_text("recipe: digits\n")
    assert command("checkpoints", str(tmp_path))[:2] == (0, "no checkpoints\n")
    status, _, err = command("checkpoints", str(tmp_path / "other"))
    assert status == 2
    assert "is not a run directory" in err
