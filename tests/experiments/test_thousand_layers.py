"""The experiment of a thousand layers, small: it trains, measures and draws."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import thousand_layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thousand")
    thousand_layers.main(["--smoke", "--out", str(folder / "out"), "--runs", str(folder / "runs")])
    return folder


@pytest.mark.slow
def test_the_figures_are_those_of_the_runs(folder):
    rows = json.loads((folder / "out" / "results.json").read_text())
    assert [row["net"] for row in rows] == list(thousand_layers.NETS.values())
    for net, row in zip(thousand_layers.NETS, rows, strict=True):
        assert row["blocks"] == 2
        assert len(row["loss"]) == row["steps"] == 4
        np.testing.assert_allclose(row["loss_start"], np.mean(row["loss"]))  # of 20 steps or of all there are
        lines = [json.loads(line) for line in (folder / "runs" / net / "depth.jsonl").read_text().splitlines()][1:]
        assert row["gradient_steps"] == [1, 4]
        first, last = lines[0]["grad_norm"], lines[-1]["grad_norm"]
        np.testing.assert_allclose(row["gradient_ratio_first"], first[0] / first[-1])
        np.testing.assert_allclose(row["gradient_extent_last"], max(last) / min(last))
        assert row["peak_bytes"] > 1e8


@pytest.mark.slow
def test_pictures_and_table_are_written(folder):
    for name in ("loss.png", "gradients.png"):
        assert (folder / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert (folder / "out" / "table.md").read_text().count("\n") == 4


@pytest.mark.slow
def test_blocks_are_computed_again_and_every_net_has_its_rate(folder):
    for net in thousand_layers.NETS:
        config = (folder / "out" / f"{net}-config.yaml").read_text()
        assert "remat: block" in config
        assert f"learning_rate: {thousand_layers.RATES[net]}\n" in config
