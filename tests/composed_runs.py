"""Run directories written by the house's own writers, without a training: what a comparison reads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.report.metrics_file import MetricsFile
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.outcome import Summary
from resnet_jax.runs.recipes import load_recipe

CARD = DatasetInfo(
    ("a", "b"), (8, 8, 1), (0.5,), (0.2,), {"train": 80, "val": 10, "test": 100}, labels="0123456789abcdef"
)
VALUES = dataclasses.replace(CARD, label_kind="value", target_mean=(0.0, 0.0), target_std=(1.0, 1.0))


def tiny(seed: int = 0, rate: float = 0.1, **changes: Any) -> RunConfig:
    """Return the digits recipe with a network of one block."""
    base = _digits()
    model = base.model.replace(stage_sizes=(1,), widths=(4,))
    optim = dataclasses.replace(base.optim, learning_rate=rate)
    return dataclasses.replace(base, model=model, optim=optim, seed=seed, **changes)


@functools.cache
def _digits() -> RunConfig:
    return load_recipe("digits")


def compose(
    path: Path,
    config: RunConfig,
    validation: Sequence[float] = (),
    test: float | None = None,
    *,
    card: DatasetInfo = CARD,
    metric: str = "accuracy",
    **more: Any,
) -> Path:
    """Write a run of an epoch of 10 updates for each validation value; finished if there is a test value."""
    run = RunDirectory.open(path, config)
    run.write_data(card)
    rows = MetricsFile(run.metrics, start_step=0, every=5, learning_rate=lambda step: 0.1)
    for epoch, value in enumerate(validation, 1):
        for step in (10 * epoch - 5, 10 * epoch):
            rows.on_step({"step": step, "epoch": step / 10, "loss": 2.0 / step})
        ended = {"step": 10 * epoch, "epoch": float(epoch), "loss": 1.0 / epoch, "images_per_second": 100.0 + epoch}
        rows.on_epoch({**ended, "val_loss": 1.5 / epoch, f"val_{metric}": value})
    rows.close()
    if test is not None:
        accuracy = metric == "accuracy"
        best = max(validation, default=None)
        summary = Summary(
            test_accuracy=test if accuracy else None,
            test_correct=round(100 * test) if accuracy else None,
            test_examples=100,
            test_loss=1.0 - test,
            best_val_accuracy=best if accuracy else None,
            steps=10 * len(validation),
            finished="steps",
            tested="last",
            images_per_second=200.0,
            seconds=1.0,
            params_digest="0" * 64,
            run_dir=str(path),
            headline=metric,
            task="classification" if accuracy else "regression",
            metrics={metric: test, "macro_f1": test / 2},
            best_val=best,
        )
        run.write_summary(dataclasses.replace(summary, **more).to_json())
    return path
