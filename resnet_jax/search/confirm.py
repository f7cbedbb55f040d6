"""The best values of a search against the recipe's own values: both trained with the same seeds, and tested once."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.runs.build import build_eval_step, build_parts, build_task, evaluation_feed
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runs.significance import mean_and_std, paired
from resnet_jax.runtime.files import write_whole
from resnet_jax.search.result import scored
from resnet_jax.training.interrupt import Interrupted, StopRequest
from resnet_jax.training.population import compile_population_eval_step, evaluate_population


def confirm(
    recipe: RunConfig,
    best: RunConfig,
    seeds: int,
    path: Path,
    stop: StopRequest,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train and test two configurations with the same seeds, each as one population.

    Args:
        recipe: the recipe's own values.
        best: the values of the best trial.
        seeds: number of seeds, starting at 1000; the search has not used them unless it was told to.
        path: where the result is written.
        stop: returns whether to stop.
        say: prints a line.

    Returns:
        ``headline``, ``seeds``, for ``recipe`` and ``best`` the test metric by seed with mean and std, and the
        ``difference`` (best - recipe) with its 95% interval and p of the paired t-test if there are two or more seeds.

    Raises:
        Interrupted: if a signal asked to stop; nothing is kept.
    """
    numbers = [1000 + index for index in range(seeds)]
    found: dict[str, list[float | None]] = {}
    headline = ""
    for name, config in (("recipe", recipe), ("best", best)):
        say(f"confirming: {name} with {seeds} seeds")
        headline, found[name] = test_population(config, numbers, stop)
    pairs = [(a, b) for a, b in zip(found["recipe"], found["best"], strict=True) if a is not None and b is not None]
    result: dict[str, Any] = {"headline": headline, "seeds": numbers}
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


def test_population(config: RunConfig, seeds: Sequence[int], stop: StopRequest) -> tuple[str, list[float | None]]:
    """Train a configuration with several seeds in one program; return the headline metric and its test values.

    A seed that diverged has None.
    """
    images, placement = load_images(config), config.train.placed()
    parts, task = build_parts(config, images, placement), build_task(config, images.card)
    states = parts.new_population(seeds)
    rejected = jnp.zeros(len(seeds))
    made = 0
    for call in parts.make_feed(seeds).calls(0, parts.plan.total_steps):
        if stop:
            raise Interrupted(made, stop)
        states, metrics = call.run(states)
        made += call.count
        rejected = rejected + metrics["rejected"].reshape(-1, len(seeds)).sum(axis=0)
    step = compile_population_eval_step(build_eval_step(config, parts.model, images.card), placement)
    assert images.splits.test is not None  # images without a test split are refused
    feed = evaluation_feed(config, images.splits.test)
    results = evaluate_population(step, states.eval_variables, feed, mesh=placement, task=task)
    lost = jax.device_get(rejected) > config.train.max_rejected
    return task.headline, [
        None if gone else float(one.metrics[task.headline]) for one, gone in zip(results, lost, strict=True)
    ]
