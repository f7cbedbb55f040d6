"""A fast dev run: all parts of a run, nothing kept, and the errors that the whole run would have had."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import DataConfig, RunConfig, TrainConfig
from resnet_jax.runs.dev_run import fast_dev_run, short_config
from resnet_jax.training.ema import Averaging
from resnet_jax.training.optimizers import OptimConfig
from resnet_jax.training.schedules import ScheduleConfig

TINY = RunConfig(
    model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,)),
    data=DataConfig("digits"),
    train=TrainConfig("8 epochs", batch_size=32, observers=()),
    optim=OptimConfig("sgd", 0.1, schedule=ScheduleConfig("multistep", milestones=("50%", "75%"))),
)


@pytest.mark.slow
def test_all_parts_run_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = Console(record=True, width=300)
    found = fast_dev_run(TINY, 2, console=said)
    text = said.export_text()
    assert "Resuming after step 2 of 3." in text
    assert "Testing the last state, once, on the 64 test images" in text
    assert (found["passed"], found["steps"]) == (True, 8 * 39)
    assert {"curves.png", "confusion.png", "checkpoints", "metrics.jsonl", "summary.json"} <= set(found["files"])
    assert list(tmp_path.iterdir()) == []


def test_what_the_whole_run_would_refuse_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    schedule = ScheduleConfig("multistep", milestones=("75%", "50%"))
    wrong = dataclasses.replace(TINY, recipe="own", optim=OptimConfig("sgd", 0.1, schedule=schedule))
    with pytest.raises(UsageError, match="milestones must be after step 0 and increasing"):
        fast_dev_run(wrong)
    with pytest.raises(UsageError, match="fast_dev_run is 1 or more batches, got 0"):
        fast_dev_run(TINY, 0)
    assert list(tmp_path.iterdir()) == []


def test_what_goes_by_the_length_of_the_run_happens_in_the_short_one_too() -> None:
    train = TrainConfig("8 epochs", limit="1 hours", ema=Averaging(kind="swa"), depth_every="10%")
    short = short_config(dataclasses.replace(TINY, train=train), 3).train
    assert (short.length, short.limit, short.ema.start, short.depth_every) == ("3 steps", None, "0 steps", "1 steps")
