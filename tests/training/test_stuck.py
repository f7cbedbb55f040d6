"""When a run is said to be stuck: what constant answers get, what a learner gets, and what is too short to say."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.training.stuck import Chance, ChanceWatch, judge

TEST, TRAIN = Chance(359, 37 / 359), Chance(19 * 64, 128 / 1258)


def verdict(tested=0.1, trained=0.1, updates=285, test=TEST, train=TRAIN):
    return judge(updates=updates, steps_per_epoch=19, tested=tested, test=test, trained=trained, train=train)


def test_constant_answers_are_stuck_whichever_class_they_name():
    for share in (37 / 359, 33 / 359, 0.0):
        found = verdict(tested=share)
        assert found.stuck is True
        assert "no better than chance" in str(found.reason)


def test_a_run_that_learned_anything_is_not():
    assert verdict(tested=0.99, trained=0.99).stuck is False
    assert verdict(tested=0.20, trained=0.15).stuck is False
    assert verdict(tested=0.1, trained=1.0).stuck is False, "it overfits, which is something else"
    assert verdict(tested=0.2, trained=0.1).stuck is False, "strong augmentation"


def test_the_bound_is_three_standard_errors_above_the_share_of_the_most_frequent_class():
    chance = Chance.of(np.repeat([0, 1, 2], [600, 300, 100]))
    assert chance == Chance(1000, 0.6)
    bound = 0.6 + 3 * np.sqrt(0.24 / 1000)
    assert chance.explains(bound - 1e-6)
    assert not chance.explains(bound + 1e-6)
    assert not chance.explains(float("nan"))


def test_a_perfect_run_on_few_images_of_mostly_one_class_is_not_stuck():
    """Three standard errors above 58 of 60 are more than 60."""
    few = Chance(60, 58 / 60)
    assert verdict(tested=1.0, trained=1.0, test=few, train=Chance(128, 0.97)).stuck is False
    assert verdict(tested=58 / 60, trained=0.97, test=few, train=Chance(128, 0.97)).stuck is True
    assert not Chance(3, 2 / 3).explains(1.0)


def test_guesses_are_called_chance_and_a_tenth_better_is_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2000)
    chance = Chance.of(labels)
    assert all(chance.explains(float((rng.integers(0, 10, 2000) == labels).mean())) for _ in range(200))
    better = np.where(rng.random(2000) < 0.15, labels, rng.integers(0, 10, 2000))
    assert not chance.explains(float((better == labels).mean()))


@pytest.mark.parametrize("short", [2, 18, 49])
def test_a_short_run_is_not_judged(short):
    found = verdict(updates=short)
    assert found.stuck is None
    assert f"{short} updates are too few" in str(found.reason)


def test_a_long_epoch_must_be_over_and_one_class_is_nothing_to_learn():
    assert judge(updates=900, steps_per_epoch=1000, tested=0.1, test=TEST, trained=0.1, train=TRAIN).stuck is None
    assert verdict(test=Chance(10, 1.0)).stuck is None


def test_while_it_trains_it_is_said_once_after_the_warm_up():
    def rows(*accuracies):
        return [{"step": 19 * (i + 1), "accuracy": a, "val_accuracy": a} for i, a in enumerate(accuracies)]

    def told(accuracies, after=0):
        lines = []
        watch = ChanceWatch(TRAIN, Chance(180, 0.1), lines.append, after=after)
        for row in rows(*accuracies):
            watch.on_epoch(row)
        return lines

    assert len(told([0.1] * 8)) == 1
    assert told([0.1, 0.1, 0.3, 0.1, 0.1]) == []
    assert told([0.1] * 5 + [0.5, 0.9], after=95) == [], "in the warm-up the rate has not been there yet"
    assert len(told([0.1] * 8, after=95)) == 1
