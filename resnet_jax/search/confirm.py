"""The best values of a search against the recipe's own values: both trained with the same seeds, and tested once."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.ablation.cell import CellJob, check_cell, load_result, train_cell
from resnet_jax.ablation.grid import Cell
from resnet_jax.ablation.result import CellResult
from resnet_jax.runs.config import RunConfig, require_same
from resnet_jax.runs.data import load_images
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.significance import mean_and_std, paired
from resnet_jax.runtime.files import write_whole
from resnet_jax.search.result import scored
from resnet_jax.training.interrupt import StopRequest


def confirm(
    configs: dict[str, RunConfig],
    seeds: int,
    folders: dict[str, Path],
    path: Path,
    stop: StopRequest,
    say: Callable[[str], None],
    *,
    at_once: int | None = None,
) -> dict[str, Any]:
    """Train and test two configurations with the same seeds, each as the cell of an ablation is.

    What is finished is kept in the folders and not trained again, and what is not is resumed.

    Args:
        configs: ``recipe``, the recipe's own values, and ``best``, those of the best trial.
        seeds: number of seeds, starting at 1000; the search has not used them unless it was told to.
        folders: where each is trained.
        path: where the result is written.
        stop: returns whether to stop.
        say: prints a line.
        at_once: maximum number of seeds in one program; None for all of them.

    Returns:
        ``headline``, ``seeds``, for ``recipe`` and ``best`` the test metric by seed with mean and std, and the
        ``difference`` (best - recipe) with its 95% interval and p of the paired t-test if there are two or more seeds.

    Raises:
        UsageError: if one cannot be trained as the cell of an ablation.
        Interrupted: if a signal asked to stop; the state is saved.
    """
    numbers = tuple(1000 + index for index in range(seeds))
    found: dict[str, list[float | None]] = {}
    headline = ""
    for name in ("recipe", "best"):
        say(f"confirming: {name} with {seeds} seeds")
        run = RunDirectory(folders[name])
        cell = trained(name, configs[name], numbers, run, stop, say, at_once=at_once)
        headline = cell.headline
        scores = {member.seed: member.score for member in cell.members}
        found[name] = [scores[seed] for seed in numbers]
    pairs = [(a, b) for a, b in zip(found["recipe"], found["best"], strict=True) if a is not None and b is not None]
    result: dict[str, Any] = {"headline": headline, "seeds": list(numbers)}
    for name, values in found.items():
        mean, std = mean_and_std([value for value in values if value is not None])
        result[name] = {"values": values, "mean": mean, "std": std}
        spread = "" if std is None else f" +- {scored(std, headline)}"
        lost = "" if None not in values else f" ({values.count(None)} diverged)"
        say(f"test {headline.replace('_', ' ')}, {name}: {scored(mean, headline)}{spread}{lost}")
    if len(pairs) > 1:
        difference = paired([b for _, b in pairs], [a for a, _ in pairs])
        result["difference"] = {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(difference).items()
            if name != "seeds"
        }
        say(
            f"best - recipe: {scored(difference.mean, headline)}, 95 % interval {scored(difference.low, headline)} to "
            f"{scored(difference.high, headline)} (paired by seed)"
        )
    write_whole(path, json.dumps(result, indent=2) + "\n")
    return result


def trained(
    name: str,
    config: RunConfig,
    seeds: Sequence[int],
    run: RunDirectory,
    stop: StopRequest,
    say: Callable[[str], None],
    *,
    at_once: int | None = None,
) -> CellResult:
    """Return the test results of a configuration with these seeds, after training those that the folder lacks.

    Raises:
        UsageError: if it cannot be trained as the cell of an ablation.
        RunError: if the folder contains another configuration.
        Interrupted: if a signal asked to stop; the state is saved.
    """
    config = dataclasses.replace(config, seed=0)  # each member has its own
    images, placement = load_images(config), config.train.placed()
    params, steps = check_cell(config, images, placement)
    result = CellResult(Cell(name, {}, {}), tuple(seeds), params=params, steps=steps)
    if run.config.is_file():
        require_same(run.read_config(), config, where=run.path)
    result = load_result(result, run)
    if result.status == "done":
        return result
    return train_cell(CellJob(config, images, run, placement, say, stop, members_at_once=at_once), result)
