"""``prune``: run directories of smaller networks, single weights that stay zero, and rounds of a lottery."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax.deploy.prune.how import HowToPrune
from resnet_jax.deploy.prune.lottery import rewound
from resnet_jax.deploy.prune.prune import prune
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.evaluate import evaluate_run
from resnet_jax.runs.fit import fit
from resnet_jax.runs.trained import load_run
from resnet_jax.training.config import TrainConfig
from tests.tools import write_run

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prune")
    np.savez(path / "data.npz", x=RNG.integers(0, 256, (60, 8, 8, 1), np.uint8), y=np.arange(60) % 3)
    config = RunConfig(
        model=ModelSpec("resnet20_cifar", stage_sizes=(1, 2), widths=(4, 8)),
        data=DataConfig(f"npz:{path / 'data.npz'}"),
        train=TrainConfig(batch_size=8, length="3 epochs"),
    )
    write_run(path / "run", config)
    return path / "run"


def kernels(variables) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 1]


@pytest.mark.slow
def test_a_pruned_run_is_a_run(run, tmp_path):
    how = HowToPrune(ratio=(0.5,), min_channels=1, multiple_of=1, images=16)
    lines: list[str] = []
    found = prune(run, tmp_path / "half", how, tell=lines.append)
    smaller, full = load_run(tmp_path / "half"), load_run(run)
    assert smaller.model.config.branch_widths == (2, 4, 4)
    assert found["after"]["params"] < found["before"]["params"]
    assert found["after"]["params"] == sum(leaf.size for leaf in jax.tree.leaves(smaller.variables["params"]))
    assert any(line.startswith("parameters: ") for line in lines)
    assert evaluate_run(smaller).examples == evaluate_run(full).examples
    assert json.loads((tmp_path / "half" / "prune.json").read_text())["ratio"] == 0.5
    with pytest.raises(UsageError, match="half is in use; name a new directory"):
        prune(run, tmp_path / "half", how)


@pytest.mark.slow
def test_blocks_that_are_named_go(run, tmp_path):
    how = HowToPrune(ratio=(0.5,), min_channels=1, multiple_of=1, images=16, without_blocks=(2,))
    assert prune(run, tmp_path / "less", how)["blocks"] == [2]
    config = load_run(tmp_path / "less").model.config
    assert (config.stage_sizes, config.branch_widths) == ((1, 1), (2, 4))
    with pytest.raises(UsageError, match="block 1 cannot be removed; removable blocks, by depth from 0: "):
        prune(run, tmp_path / "first", HowToPrune(without_blocks=(1,)))
    with pytest.raises(UsageError, match="drop_blocks is the number of blocks and without_blocks names them"):
        HowToPrune(drop_blocks=1, without_blocks=(2,))


@pytest.mark.slow
def test_pruned_weights_stay_zero_in_training(run, tmp_path):
    prune(run, tmp_path / "sparse", HowToPrune(by="magnitude", ratio=(0.6,), finetune="1 epochs"))
    before, after = (kernels(load_run(path).variables) for path in (tmp_path / "sparse", tmp_path / "sparse/finetuned"))
    zeros = sum(int((kernel == 0).sum()) for kernel in before)
    assert abs(zeros / sum(kernel.size for kernel in before) - 0.6) < 0.01
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old == 0, new == 0)
        assert np.any(old != new)


@pytest.mark.slow
def test_a_table_of_ratios(run, tmp_path):
    how = HowToPrune(ratio=(0.25, 0.5), min_channels=1, multiple_of=1, images=16, drop_blocks=1, finetune="1 epochs")
    points = prune(run, tmp_path / "sweep", how)["points"]
    assert [point["name"] for point in points] == ["full", "ratio-0.25", "ratio-0.5"]
    assert points[0]["speedup"] == 1.0
    assert [point["blocks"] for point in points] == [3, 2, 2]
    assert (tmp_path / "sweep" / "table.png").stat().st_size > 5000
    again = prune(run, tmp_path / "sweep", how)["points"]
    assert [point["finetuned"] for point in again] == [point["finetuned"] for point in points]
    with pytest.raises(RunError, match="was made with drop_blocks 1, not 0"):
        prune(run, tmp_path / "sweep", HowToPrune(ratio=(0.25, 0.5), min_channels=1, multiple_of=1, images=16))


@pytest.mark.slow
def test_a_lottery_goes_back_to_the_bit_and_trains_what_is_left(run, tmp_path, monkeypatch):
    config = load_run(run).config
    fit(config, tmp_path / "dense")
    seen = []

    def kept(early, parts, masks):
        seen.append((jax.device_get(early), jax.device_get(rewound(early, parts, masks)), masks))
        return rewound(early, parts, masks)

    monkeypatch.setattr("resnet_jax.deploy.prune.lottery.rewound", kept)
    how = HowToPrune(by="lottery", ratio=(0.5,), rounds=2, rewind="2 steps")
    rows = prune(tmp_path / "dense", tmp_path / "tickets", how)["rounds"]
    assert [round(row["density"], 2) for row in rows] == [1.0, 0.5, 0.25]
    for early, back, masks in seen:
        assert int(back.step) == 2
        leaves = jax.tree.map(lambda mask, old, new: (mask, old, new), masks, early.params, back.params,
                              is_leaf=lambda node: node is None)  # fmt: skip
        for mask, old, new in jax.tree.leaves(leaves, is_leaf=lambda node: isinstance(node, tuple)):
            np.testing.assert_array_equal(new, old if mask is None else np.where(mask, old, 0))
        for old, new in zip(jax.tree.leaves(early.batch_stats), jax.tree.leaves(back.batch_stats), strict=True):
            np.testing.assert_array_equal(old, new)
    for number, share in ((1, 0.5), (2, 0.75)):
        trained = kernels(load_run(tmp_path / f"tickets/round{number}").variables)
        zeros = sum(int((kernel == 0).sum()) for kernel in trained)
        assert abs(zeros / sum(kernel.size for kernel in trained) - share) < 0.01
    assert prune(tmp_path / "dense", tmp_path / "tickets", how)["rounds"] == rows, "made once"


def test_what_does_not_go_together_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="single zero weights are no faster"):
        prune(run, tmp_path / "a", HowToPrune(by="magnitude", ratio=(0.2, 0.5)))
    with pytest.raises(UsageError, match="the network is that of the run"):
        prune(run, tmp_path / "a", given={"model.name": "resnet18"})
    with pytest.raises(UsageError, match="is not a finished run"):
        prune(run, tmp_path / "a", HowToPrune(by="lottery"))
    with pytest.raises(UsageError, match="lottery trains every round"):
        HowToPrune(by="lottery", finetune="1 epochs")
    assert not (tmp_path / "a").exists()
