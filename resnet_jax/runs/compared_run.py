"""One run as a comparison sees it: the contents of its directory, finished or not."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from resnet_jax.errors import DamagedError, UsageError, unknown
from resnet_jax.models.count import count
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.report.plots import NO_METRICS
from resnet_jax.runs.build import build_network, build_task
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.imports import missing_told
from resnet_jax.runs.outcome import Summary
from resnet_jax.runtime.paths import user_path

_log = logging.getLogger(__name__)

#: Metrics of which less is better, besides the headline metrics of tasks that define it themselves.
LOWER = frozenset({"loss", "ece", "mse", "mae", "rmse"})

Point = tuple[int, float]


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory says about a run.

    Attributes:
        path: the path as given.
        config: its configuration.
        card: its data.
        task: what its outputs mean, such as ``classification``.
        metric: the compared metric.
        mode: whether larger or smaller is better.
        steps: number of updates done, as far as recorded.
        epochs: the same in epochs; None if no row contains it.
        finished: how it ended; None if it has not.
        stuck: whether it ended no better than chance.
        test: the metric on the test split; None if it was not tested, or the metric is not a number.
        best: its best validation value; None without.
        speed: training images per second; None if no epoch was finished.
        params: number of parameters of the network.
        training: (step, loss) of each epoch, or of the logged steps if fewer than two epochs are done.
        validation: (step, metric) of each validation.
    """

    path: Path
    config: RunConfig
    card: DatasetInfo
    task: str
    metric: str
    mode: Literal["max", "min"]
    steps: int
    epochs: float | None
    finished: str | None
    stuck: bool
    test: float | None
    best: float | None
    speed: float | None
    params: int
    training: tuple[Point, ...]
    validation: tuple[Point, ...]

    @property
    def state(self) -> str:
        """Its progress, in words."""
        if self.finished is None:
            return "unfinished"
        return ("done" if self.finished == "steps" else self.finished) + (" (stuck)" if self.stuck else "")


def read_run(path: Path, metric: str | None = None, counted: dict[Any, int] | None = None) -> Run:
    """Read what a run directory says.

    Args:
        path: the directory.
        metric: the metric to read (default: the task's headline metric).
        counted: parameter counts of networks counted before; extended by this call.

    Raises:
        UsageError: if it is not a run directory or belongs to an ablation, or the run lacks the metric.
        RunError: if it has not read its data yet.
        DamagedError: if a file was changed or damaged and cannot be repaired.
    """
    folder = user_path(path)
    for above in (folder, *folder.absolute().parents[1:2]):
        if (above / "ablation.yaml").is_file():
            raise UsageError(
                f"{path} is {'an ablation' if above == folder else 'a cell of an ablation'}, whose seeds are in one "
                f"program: `ablate` has its own table of them, {above / 'table.md'}"
            )
    run = RunDirectory.existing(path)
    config, card = run.read_config(), run.read_data()
    with missing_told(config.imports, where=str(path)):
        task = build_task(config, card)
        params = _parameters(config, card, {} if counted is None else counted)
    summary = _summary(run)
    rows = read_metrics(run.metrics) if run.metrics.is_file() else []
    if not rows:
        _log.warning("warning: %s has no rows in %s: it has no curves", path, run.metrics.name)
    name = metric or task.headline
    known = {"loss", task.headline, *(summary.metrics if summary else ())}
    known |= {key.removeprefix("val_") for row in rows for key in row if key.startswith("val_")}
    if name not in known or (name in NO_METRICS and name != "loss"):
        raise unknown(f"metric of {path}", name, sorted(known))
    mode = task.mode if name == task.headline else "min" if name in LOWER or name.endswith("_error") else "max"
    validation = _points(rows, ("epoch", "validation"), f"val_{name}")
    epochs = [row for row in rows if row["kind"] == "epoch"]
    kinds = ("epoch",) if len(epochs) > 1 else ("train",)
    tops = [value for _, value in validation if math.isfinite(value)]
    best = (max if mode == "max" else min)(tops) if tops else None
    speeds = [row["images_per_second"] for row in epochs if row.get("images_per_second")]
    test = None
    if summary is not None:
        test = summary.test_loss if name == "loss" else summary.metrics.get(name)
        if name == task.headline:
            test = summary.test_headline if test is None else test
            best = summary.best_val if summary.best_val is not None else best
    return Run(
        path=path,
        config=config,
        card=card,
        task=task.kind,
        metric=name,
        mode=mode,
        steps=summary.steps if summary else max([run.saved_step(), *(int(row["step"]) for row in rows)]),
        epochs=max((float(row["epoch"]) for row in rows if row.get("epoch") is not None), default=None),
        finished=summary.finished if summary else None,
        stuck=bool(summary and summary.stuck),
        test=None if test is None or not math.isfinite(test) else float(test),
        best=best,
        speed=summary.images_per_second if summary else (speeds[-1] if speeds else None),
        params=params,
        training=tuple(_points(rows, kinds, "loss")),
        validation=tuple(validation),
    )


def _parameters(config: RunConfig, card: DatasetInfo, counted: dict[Any, int]) -> int:
    """Return the number of parameters of a network; ``counted`` caches those of others, which many seeds share."""
    model = build_network(config, card)
    key = (model.config, card.image_shape)
    if key not in counted:
        counted[key] = count(model, card.image_shape).params
    return counted[key]


def _summary(run: RunDirectory) -> Summary | None:
    stored = run.read_summary()
    if stored is None:
        return None
    try:
        return Summary.from_json(stored)
    except TypeError as error:  # a field is missing
        raise DamagedError(f"{run.summary} is no result of a run: {error}") from error


def _points(rows: Sequence[Mapping[str, Any]], kinds: tuple[str, ...], name: str) -> list[Point]:
    """Return (step, value) of rows in order, non-finite values as NaN, with only the last row of a step."""
    found = {
        int(row["step"]): math.nan if row[name] is None else float(row[name])
        for row in rows
        if row["kind"] in kinds and name in row
    }
    return sorted(found.items())
