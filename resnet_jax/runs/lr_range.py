"""The learning-rate range test: a short run whose rate grows exponentially, and what its loss says about the rate.

L. N. Smith, Cyclical Learning Rates for Training Neural Networks (WACV 2017, arXiv 1506.01186, section 3.3); drawn on a
logarithmic axis with the two suggestions, as in fastai. It uses the same step, batches and loop as a regular training,
with several seeds as one population.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console as RichConsole

from resnet_jax.errors import RunError, UsageError
from resnet_jax.report.range_plot import plot_range
from resnet_jax.report.text import say
from resnet_jax.runs.build import RunComponents, build_parts
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runtime.files import write_whole
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.loop import train
from resnet_jax.training.observers import Observer, Row
from resnet_jax.training.options import Averaging, ScheduleConfig
from resnet_jax.training.plan import Reject
from resnet_jax.training.progress import Progress
from resnet_jax.training.spikes import Spikes

#: A seed ends once its running mean of the loss is this many times the smallest so far, as in fastai.
ENOUGH = 4.0
#: Weight of the old value in that running mean.
DECAY = 0.9
#: Number of updates before it counts.
LEAST = 10
#: Standard deviation of the Gaussian that smooths the curve, as a fraction of all updates.
WIDTH = 0.02


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """The results of a range test.

    Attributes:
        rates: learning rate of every update, rising, (updates,).
        losses: losses of every seed, (seeds, updates); NaN after its end.
        seeds: the seeds.
        steepest: the rate at which the smoothed loss falls fastest; None if it never falls.
        minimum: the rate at which it is smallest; None if it never falls.
    """

    rates: np.ndarray
    losses: np.ndarray
    seeds: tuple[int, ...]
    steepest: float | None
    minimum: float | None

    @property
    def smoothed(self) -> np.ndarray:
        """The losses with most of their noise removed, (seeds, updates)."""
        return np.stack([smooth(row, WIDTH * len(self.rates)) for row in self.losses])

    @property
    def at_the_end(self) -> bool:
        """Whether the loss is smallest where the test ended, so that a higher rate may be even better."""
        complete = bool(np.isfinite(self.losses).all())
        return self.minimum is not None and complete and self.minimum >= self.rates[-2]

    @property
    def tenth(self) -> float | None:
        """A tenth of the rate at which the loss is smallest."""
        return None if self.minimum is None else self.minimum / 10


def smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Return a mean of neighbors, weighted by a Gaussian of this many updates; NaN values stay NaN.

    Unlike a running mean it does not lag, so a rate is read off at the loss it had.

    >>> smooth(np.array([1.0, 1.0, 1.0, np.nan]), 2.0).round(6).tolist()
    [1.0, 1.0, 1.0, nan]
    """
    known = np.isfinite(values)
    place = np.arange(len(values))
    weights = np.exp(-0.5 * np.square((place[:, None] - place[None]) / max(width, 1e-3))) * known[None]
    total = weights.sum(axis=1)
    means = weights @ np.where(known, values, 0.0) / np.where(total > 0, total, 1.0)
    return np.where(known, means, np.nan)


def suggest(rates: np.ndarray, smoothed: np.ndarray) -> tuple[float | None, float | None]:
    """Return the rate of steepest descent before the smallest loss, and the rate of the smallest loss.

    Args:
        rates: rising, (updates,).
        smoothed: losses, (updates,); NaN where there is none.

    Returns:
        Both are None if the loss never falls.

    >>> rates = np.geomspace(1e-4, 1, 5)
    >>> [round(rate, 6) for rate in suggest(rates, np.array([2.0, 1.9, 1.0, 0.8, 5.0]))]
    [0.01, 0.1]
    """
    known = np.flatnonzero(np.isfinite(smoothed))
    if len(known) < 3:
        return None, None
    rates, smoothed = rates[known], smoothed[known]
    least = int(np.argmin(smoothed))
    slopes = np.gradient(smoothed, np.log(rates))[: least + 1]
    if not least or slopes.min() >= 0:
        return None, None
    return float(rates[int(np.argmin(slopes))]), float(rates[least])


def lr_range(
    config: RunConfig,
    out: Path,
    *,
    low: float = 1e-5,
    high: float = 10.0,
    steps: int = 200,
    seeds: Sequence[int] = (0,),
    console: RichConsole | None = None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Train with a rate that grows from ``low`` to ``high``; write lr_range.csv and lr_range.png.

    The test ends before ``steps`` once the loss of every seed is far above its minimum, or not finite. Nothing is
    validated or tested, and no network is saved.

    Args:
        config: the run to test; its schedule and length are not used.
        out: folder for the two files.
        low: first learning rate.
        high: last learning rate.
        steps: number of updates.
        seeds: seeds to train together; one curve each.
        console: where to print the findings.
        stop: checked between calls.

    Returns:
        ``steepest``, ``minimum``, ``minimum_tenth`` (rates, or None), ``recipe_rate``, ``steps`` made, ``seeds``, and
        the paths ``csv`` and ``png``.

    Raises:
        UsageError: for impossible rates or steps.
    """
    if not 0.0 < low < high < math.inf:
        raise UsageError(f"a range test goes from a rate above 0 to a higher one, got from {low:g} to {high:g}")
    if steps < 2 * LEAST:
        raise UsageError(f"a range test needs {2 * LEAST} updates or more, got {steps}")
    console = RichConsole(quiet=True) if console is None else console
    found = measure(config, low, high, steps, seeds, console, stop)
    out.mkdir(parents=True, exist_ok=True)
    table, picture = out / "lr_range.csv", out / "lr_range.png"
    write_whole(table, _csv(found))
    rate = config.optim.learning_rate
    plot_range(
        picture,
        title=f"Learning-rate range test of {config.recipe}",
        rates=found.rates,
        losses=found.losses,
        smoothed=found.smoothed,
        marks={"steepest descent": found.steepest, "minimum / 10": found.tenth, "the recipe's rate": rate},
    )
    for line in sentences(found, rate):
        say(console, line)
    say(console, f"curve {picture}, numbers {table}")
    return {
        "steepest": found.steepest,
        "minimum": found.minimum,
        "minimum_tenth": found.tenth,
        "recipe_rate": rate,
        "steps": int(np.isfinite(found.losses).any(axis=0).sum()),
        "seeds": list(found.seeds),
        "csv": str(table),
        "png": str(picture),
    }


def sentences(found: RangeTest, rate: float) -> list[str]:
    """Return what to print about a test, one line each."""
    if found.steepest is None or found.minimum is None or found.tenth is None:
        lines = ["At no rate does the loss fall: give a lower --from, or more --steps."]
    else:
        lines = [
            f"steepest descent at a rate of {found.steepest:.2g}; lowest loss at {found.minimum:.2g}, a tenth of which "
            f"is {found.tenth:.2g}"
        ]
        if found.at_the_end:
            lines.append("The loss is lowest where the test ended: a higher --to may show more.")
    return [*lines, f"the rate of the recipe is {rate:.2g}, with its own schedule"]


def measure(
    config: RunConfig,
    low: float,
    high: float,
    steps: int,
    seeds: Sequence[int],
    console: RichConsole,
    stop: StopRequest | None = None,
) -> RangeTest:
    """Train; see :func:`lr_range`.

    Raises:
        RunError: if the loss of every seed was not finite from the start.
    """
    config = range_config(config, low, high, steps)
    images = load_images(config)
    placement = config.train.placed()
    parts = build_parts(config, images, placement)
    say(console, f"{config.model.name} on {config.data.place}: {steps} updates of {config.train.batch_size} images, "
        f"rates {low:g} to {high:g}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}")  # fmt: skip
    states = parts.new_population(seeds)
    curve = _Curve(len(seeds), steps)
    with contextlib.suppress(_EnoughError):
        train(
            states,
            plan=dataclasses.replace(parts.plan, on_reject=Reject("record")),
            feed=parts.make_feed(tuple(seeds)),
            task=parts.task,
            progress=Progress.start(len(seeds)),
            observers=[curve],
            stop=stop,
        )
    if not np.isfinite(curve.losses).any():
        raise RunError(f"no loss was finite, not even at a rate of {low:g}: give a lower --from")
    rates = _rates(parts, steps)
    smoothed = np.stack([smooth(row, WIDTH * steps) for row in curve.losses])
    return RangeTest(rates, curve.losses, tuple(seeds), *suggest(rates, smoothed.mean(axis=0)))


def range_config(config: RunConfig, low: float, high: float, steps: int) -> RunConfig:
    """Return a run of this many updates with a rising rate, without anything that would stop or average it."""
    schedule = ScheduleConfig("exponential", start_value=low / high)
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, learning_rate=high, schedule=schedule),
        train=dataclasses.replace(
            config.train,
            length=f"{steps} steps",
            limit=None,
            ema=Averaging(),
            early_stopping=EarlyStopping(),
            spikes=Spikes(),
            select="last",
            depth_every=None,
        ),
    )


def _rates(parts: RunComponents, steps: int) -> np.ndarray:
    return np.asarray(parts.learning_rate(jnp.arange(steps)), np.float64)  # pyright: ignore[reportArgumentType]


class _EnoughError(Exception):
    """Every seed is done: raised by the observer to end the training."""


class _Curve(Observer):
    """Observer that records the losses of every seed, and ends the training once all are far above their minimum.

    Args:
        seeds: number of seeds.
        steps: maximum number of updates.
    """

    def __init__(self, seeds: int, steps: int) -> None:
        self.losses = np.full((seeds, steps), np.nan)
        self._mean, self._least = np.zeros(seeds), np.full(seeds, np.inf)
        self._done = np.zeros(seeds, bool)

    def on_step(self, row: Row) -> None:
        """Record the loss, unless its seed is done.

        Raises:
            _EnoughError: if all are done.
        """
        member, step = int(row["member"]), int(row["step"])
        if self._done[member]:
            return
        loss = row["loss"]
        self.losses[member, step - 1] = loss
        self._mean[member] = DECAY * self._mean[member] + (1 - DECAY) * loss
        mean = self._mean[member] / (1 - DECAY**step)  # without the zero that it began with
        self._least[member] = min(self._least[member], mean)
        self._done[member] = step > LEAST and mean > ENOUGH * self._least[member]
        self._end()

    def on_divergence(self, row: Row) -> None:
        """Drop a seed whose loss is not finite."""
        self._done[int(row["member"])] = True
        self._end()

    def _end(self) -> None:
        if self._done.all():
            raise _EnoughError


def _csv(found: RangeTest) -> str:
    """Return a row for every update and seed: step, rate, seed, loss, smoothed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", "rate", "seed", "loss", "smoothed"))
    for seed, losses, smoothed in zip(found.seeds, found.losses, found.smoothed, strict=True):
        for step in np.flatnonzero(np.isfinite(losses)):
            writer.writerow(
                (step + 1, f"{found.rates[step]:.8g}", seed, f"{losses[step]:.8g}", f"{smoothed[step]:.8g}")
            )
    return text.getvalue()
