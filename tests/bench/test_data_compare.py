"""Input pipelines in turns: our sides really run, in processes of their own; what cannot be measured is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from resnet_jax.bench.data_compare import SIDES, DataWorkload, compare_data, data_table, describe_cpu
from resnet_jax.bench.data_samples import SAMPLES, write_samples
from resnet_jax.bench.data_side import prepare
from resnet_jax.data.source import load_dataset
from resnet_jax.errors import UsageError


@pytest.mark.parametrize("kind", ["cifar", "mnist"])
def test_samples_are_of_their_kind(tmp_path, monkeypatch, kind):
    height, width, suffix, _ = SAMPLES[kind]
    monkeypatch.setitem(SAMPLES, kind, (height, width, suffix, 12))
    records = load_dataset(f"folder:{write_samples(kind, tmp_path / 'set')}").splits["all"]
    assert len(records) == 12
    assert records[3]["image"].shape == (height, width, 3)


@pytest.mark.parametrize("side", ["threads", "bare", "memory", "resident", "streamed"])
def test_our_sides_count_what_arrives(tmp_path, monkeypatch, side):
    monkeypatch.setitem(SAMPLES, "cifar", (32, 32, ".jpg", 40))
    monkeypatch.setattr("resnet_jax.bench.data_side.keep_freed_memory", lambda: True)
    folder = write_samples("cifar", tmp_path / "set")
    spec = {"kind": "cifar", "batch": 8, "threads": 1, "workers": 0, "side": side, "source": f"folder:{folder}"}
    found = prepare(spec).measure(0.01)
    assert found["images"] % 8 == 0
    assert found["images"] > 0
    assert found["seconds"] >= 0.01


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no side mine; there are threads, workers"):
        DataWorkload(sides=("mine",))
    with pytest.raises(UsageError, match=r"no folder .*nowhere"):
        compare_data(DataWorkload(images=tmp_path / "nowhere"))
    assert describe_cpu()["cores"] >= 1


@pytest.mark.slow
def test_sides_take_turns_and_a_peer_that_cannot_run_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(SAMPLES, "mnist", (28, 28, ".png", 300))
    workload = DataWorkload(
        "mnist", records=True, batch=16, threads=1, rounds=2, seconds=0.1, torch=Path(sys.executable)
    )
    result = compare_data(workload)
    assert set(result["rates"]) == set(SIDES)
    assert all(len(each) == 2 for each in result["rounds"].values())
    assert "torch" in result["not_run"]["torch"]
    assert result["ratios"]["resident_over_streamed"] > 1
    table = data_table(result)
    assert "torch DataLoader" in table
    assert "not run: " in table
