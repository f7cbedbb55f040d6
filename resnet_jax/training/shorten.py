"""Adapts a recipe's schedule to a run shorter than the recipe: what no longer fits is shortened in proportion.

A recipe has a length and a schedule made for it. In a run of T updates instead of the recipe's R (both with the epochs
of this run's data and batch size):

* a warm-up that takes more than half of the run becomes T / R of its length in the recipe;
* if a milestone would never be reached, although the recipe reaches it, all milestones become T / R of their values;
* a one-cycle rise to the peak that ends after the run becomes T / R of its length.

Lengths are rounded to whole updates; milestones stay distinct, and those for which no update is left are dropped.
Whatever still fits stays as written, and so does what the user chose for this run: a warm-up that leaves no step is
then rejected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from resnet_jax.training.duration import parse_duration
from resnet_jax.training.options import ScheduleConfig


@dataclasses.dataclass(frozen=True)
class Length:
    """Number of updates of a run and of one of its epochs."""

    steps: int
    steps_per_epoch: int


def fit_schedule(
    schedule: ScheduleConfig, recipe: ScheduleConfig, *, run: Length, whole: Length, chosen: Collection[str] = ()
) -> tuple[ScheduleConfig, list[str]]:
    """Shorten what does not fit.

    Args:
        schedule: the schedule of the run.
        recipe: the recipe's schedule; only what is the same in both is shortened.
        run: the length of the run.
        whole: the length of the recipe.
        chosen: fields that the user set for this run, even if to the same value.

    Returns:
        The schedule, and one sentence per change.

    Raises:
        UsageError: for a duration that cannot be parsed.

    >>> cosine = ScheduleConfig("cosine", warmup="1 epochs")
    >>> fit_schedule(cosine, cosine, run=Length(19, 19), whole=Length(285, 19))[1]
    ["warm-up '1 epochs' becomes '1 steps'"]
    >>> fit_schedule(cosine, cosine, run=Length(38, 19), whole=Length(285, 19))[1]
    []
    """
    if run.steps >= whole.steps:
        return schedule, []
    share = run.steps / whole.steps
    changes: dict[str, str | tuple[str, ...]] = {}
    said = []

    def steps(duration: str, length: Length) -> int:
        return parse_duration(duration).steps(length.steps_per_epoch, length.steps)

    def is_recipes(name: str) -> bool:
        value = getattr(schedule, name)
        return bool(value) and value == getattr(recipe, name) and name not in chosen

    for name, text, most in (("warmup", "warm-up", run.steps / 2), ("peak", "the peak", run.steps)):
        if is_recipes(name) and steps(getattr(schedule, name), run) > most:
            short = f"{int(share * steps(getattr(schedule, name), whole) + 0.5)} steps"
            changes[name] = short
            said.append(f"{text} {getattr(schedule, name)!r} becomes {short!r}")
    if is_recipes("milestones"):
        reached = [milestone for milestone in schedule.milestones if steps(milestone, whole) < whole.steps]
        here = [steps(milestone, run) for milestone in reached]
        if here and (here[-1] >= run.steps or here[0] < 1 or len(set(here)) < len(here)):
            placed: list[int] = []
            for milestone in reached:
                wanted = int(share * steps(milestone, whole) + 0.5)
                placed.append(max(wanted, placed[-1] + 1 if placed else 1))
            short = tuple(f"{step} steps" for step in placed if step < run.steps) or (f"{run.steps} steps",)
            changes["milestones"] = short
            said.append(f"milestones {', '.join(schedule.milestones)} become {', '.join(short)}")
    return dataclasses.replace(schedule, **changes), said
