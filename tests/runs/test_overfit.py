"""A few batches learned by heart: which images, what is off, the verdict, and a directory that no run loses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from resnet_jax.errors import CheckError, UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import DataConfig, RunConfig, TrainConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runs.overfit import overfit, same_batches, verdict, without_regularization
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.training.ema import Averaging
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.optimizers import OptimConfig

TINY = RunConfig(
    model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(8,), drop_path=0.1),
    data=DataConfig("digits", augment=("random_crop(1)", "flip")),
    train=TrainConfig(batch_size=16, ema=Averaging(0.99)),
    optim=OptimConfig("sgd", 0.1, momentum=0.9),
    task=TaskConfig(label_smoothing=0.1),
)


def test_what_regularizes_is_off_and_said() -> None:
    plain, off = without_regularization(TINY)
    assert off == ["augmentation", "drop path", "label smoothing", "averages"]
    assert plain.model.config().drop_path == 0.0
    assert (plain.data.augment, plain.task.label_smoothing, plain.train.averaging()) == ((), 0.0, None)
    assert plain.optim == TINY.optim
    assert without_regularization(plain) == (plain, ["nothing, none was on"])


def test_the_same_images_are_trained_on_and_evaluated() -> None:
    images = load_images(without_regularization(TINY)[0])
    few = same_batches(images, 16, 2, seed=0)
    assert few.splits.train is few.splits.val
    assert few.splits.train is few.splits.test
    assert len(few.splits.train) == 32
    again = same_batches(images, 16, 2, seed=0)
    np.testing.assert_array_equal(few.splits.train.labels, again.splits.train.labels)
    with pytest.raises(UsageError, match=r"100 batches of 16 are 1,600 images, and there are 1,258"):
        same_batches(images, 16, 100, seed=0)


@pytest.mark.slow
def test_a_batch_is_learned_and_the_next_command_writes_over_it_but_not_over_a_run(tmp_path: Path) -> None:
    said = Console(record=True, width=300)
    found = overfit(TINY, 1, tmp_path / "over", console=said)
    assert found["passed"]
    assert found["metrics"]["accuracy"] == 1.0
    assert found["loss"] < 0.05 * found["first_loss"]
    assert found["steps"] < 400
    text = said.export_text()
    assert "The same 16 images, a batch of 16, over and over, for at most 400 updates; off: augmentation" in text
    assert "overfit check passed: on the 16 images trained on" in text
    assert sorted(path.name for path in (tmp_path / "over").iterdir()) == [
        "curves.png", "metrics.jsonl", "overfit.json"
    ]  # fmt: skip
    slow = dataclasses.replace(TINY, optim=OptimConfig("sgd", 1e-7))
    with pytest.raises(CheckError, match=r"FAILED: on the 16 .* 100% NOT reached.*memorize them") as failed:
        overfit(slow, 1, tmp_path / "over", length="20 steps")
    assert failed.value.result["steps"] == 20
    assert not json.loads((tmp_path / "over/overfit.json").read_text())["passed"]
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("recipe: digits\n")
    with pytest.raises(UsageError, match="holds something else, perhaps a run"):
        overfit(TINY, 1, run)
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_the_verdict_tells_statistics_that_lag_and_tasks_without_accuracy() -> None:
    def result(loss: float, **metrics: float) -> Evaluation:
        return Evaluation(loss, 8, metrics)

    assert verdict(result(0.5, accuracy=1.0), 2.0, 1.0, 8)[0]
    passed, said = verdict(result(0.5, accuracy=0.75), 2.0, 1.0, 8)
    assert (passed, "running batch statistics" in said) == (False, True)
    assert verdict(result(0.01, r2=0.99), 2.0, None, 8)[0]
    assert not verdict(result(0.5, r2=0.6), 2.0, None, 8)[0]
