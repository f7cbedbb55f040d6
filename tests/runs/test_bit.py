"""BiT-HyperRule: the table of Kolesnikov et al. 2020, section 3.3, and what a smaller batch makes of it."""

from __future__ import annotations

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.runs.bit import bit_rule
from resnet_jax.runs.recipes import load_recipe

#: examples, (height, width) -> task, updates, mixup, resized to, cropped to.
PUBLISHED = [
    (50, (32, 32), "small", 500, 0.0, 160, 128),
    (19_999, (95, 97), "small", 500, 0.0, 160, 128),
    (19_999, (96, 96), "small", 500, 0.0, 448, 384),
    (20_000, (224, 224), "medium", 10_000, 0.1, 448, 384),
    (50_000, (32, 32), "medium", 10_000, 0.1, 160, 128),
    (499_999, (10, 900), "medium", 10_000, 0.1, 160, 128),
    (500_000, (64, 64), "large", 20_000, 0.1, 160, 128),
    (1_281_167, (375, 500), "large", 20_000, 0.1, 448, 384),
]


@pytest.mark.parametrize(("examples", "size", "task", "steps", "mixup", "resize", "crop"), PUBLISHED)
def test_the_published_table(examples, size, task, steps, mixup, resize, crop):
    rule = bit_rule(examples, size)
    assert (rule.task, rule.steps, rule.mixup, rule.resize, rule.crop) == (task, steps, mixup, resize, crop)
    assert (rule.batch_size, rule.learning_rate, rule.momentum, rule.weight_decay) == (512, 0.003, 0.9, 0.0)
    assert rule.milestones == ("30%", "60%", "90%")


@pytest.mark.parametrize("batch", [512, 256, 64, 7])
def test_another_batch_sees_as_many_examples_at_a_rate_in_proportion(batch):
    rule = bit_rule(1_000, (32, 32))
    other = rule.with_batch(batch)
    assert other.steps * batch == pytest.approx(rule.steps * 512, rel=1e-3)
    assert other.learning_rate / batch == pytest.approx(rule.learning_rate / 512, rel=1e-4)
    assert (other.warmup / other.steps, other.milestones) == (pytest.approx(0.2, rel=1e-3), rule.milestones)


def test_nothing_is_no_data_set():
    for examples, size in ((0, (32, 32)), (5, (0, 32))):
        with pytest.raises(UsageError, match="one image of one pixel"):
            bit_rule(examples, size)
    with pytest.raises(UsageError, match="one example at least, got 0"):
        bit_rule(5, (8, 8)).with_batch(0)


def test_the_recipe_is_the_rule_for_cifar10():
    config, rule = load_recipe("bit-finetune"), bit_rule(45_000, (32, 32))
    optim, train = config.optim, config.train
    assert (train.length, train.batch_size) == (f"{rule.steps} steps", rule.batch_size)
    assert (optim.name, optim.learning_rate, optim.momentum) == ("sgd", rule.learning_rate, rule.momentum)
    assert (optim.weight_decay, optim.nesterov) == (rule.weight_decay, None)
    schedule = optim.schedule
    assert (schedule.kind, schedule.milestones, schedule.factor) == ("multistep", rule.milestones, 0.1)
    assert schedule.warmup == f"{rule.warmup} steps"
    assert config.data.image_size == rule.crop
    assert f"mixup({rule.mixup:g})" in config.data.augment
    assert config.model.config().head_kernel_init == "zeros"
