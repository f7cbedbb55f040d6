"""Schedules of recipes in runs that are shorter: by hand, and that every length then makes a schedule."""

from __future__ import annotations

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.runs.recipes import list_recipes, load_recipe
from resnet_jax.training.schedules import ScheduleConfig, make_schedule
from resnet_jax.training.shorten import Length, fit_schedule

COSINE = ScheduleConfig("cosine", warmup="1 epochs")
STEPS = ScheduleConfig("multistep", milestones=("30 epochs", "60 epochs", "80 epochs"))


def fit(schedule, steps, whole, epoch=10, **more):
    return fit_schedule(
        schedule, more.pop("recipe", schedule), run=Length(steps, epoch), whole=Length(whole, epoch), **more
    )


@pytest.mark.parametrize(("steps", "warmup"), [(2, "0 steps"), (10, "1 steps"), (19, "1 steps"), (20, "1 epochs")])
def test_a_warm_up_of_more_than_half_the_run_is_shortened_in_proportion(steps, warmup):
    assert fit(COSINE, steps, 150)[0].warmup == warmup


def test_what_was_chosen_for_the_run_stays_and_is_refused_where_it_cannot_be():
    assert fit(COSINE, 10, 150, chosen=("warmup",)) == (COSINE, [])
    other = ScheduleConfig("cosine", warmup="2 epochs")
    assert fit(other, 10, 150, recipe=COSINE) == (other, [])
    with pytest.raises(UsageError, match="leaves none"):
        make_schedule(other, 0.1, steps_per_epoch=10, total_steps=10)


def test_milestones_that_would_not_be_reached_keep_their_proportions():
    assert fit(STEPS, 90, 900)[0].milestones == ("30 steps", "60 steps", "80 steps")
    assert fit(STEPS, 850, 900)[0] is not None
    assert fit(STEPS, 850, 900) == (STEPS, []), "all are reached: the run stops early, as it always did"
    assert fit(STEPS, 1800, 900) == (STEPS, []), "a longer run is what somebody asked for"


def test_the_peak_of_one_cycle():
    late = ScheduleConfig("onecycle", peak="5 epochs")
    assert fit(late, 20, 100)[0].peak == "10 steps"
    assert fit(late, 60, 100) == (late, [])


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_can_be_run_for_a_moment(name):
    config = load_recipe(name)
    whole = config.train.total_steps(50)
    for steps in (1, 2, 3, 7, 19, 100):
        schedule, _ = fit(config.optim.schedule, steps, whole, epoch=50)
        make_schedule(schedule, 0.1, steps_per_epoch=50, total_steps=steps)
