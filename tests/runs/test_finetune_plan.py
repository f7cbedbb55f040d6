"""What fine-tuning chooses for a network and a data set, and which of these it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.data.look import Findings, findings_of
from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.arrays import as_dataset
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.finetune_how import HowToFinetune, head_config, head_steps, starting_from, with_steps
from resnet_jax.runs.finetune_plan import FinetunePlan, look_ahead, make_plan
from resnet_jax.runs.trained import TrainedRun

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def network(classes: tuple[str, ...] = ("cat", "dog"), shape=(32, 32, 3), name="resnet20_cifar", **card) -> TrainedRun:
    config = RunConfig(model=ModelSpec(name))
    mean = card.pop("mean", MEAN[: shape[-1]])
    found = DatasetInfo(classes, shape, mean, STD[: len(mean)], card.pop("examples", {}), **card)
    return TrainedRun(config, found, build_model(config, found), {}, 7, Path("runs/net"))


def data(classes: tuple[str, ...] = ("ant", "bee", "fly"), shape=(32, 32, 3), count: int = 300, **change) -> Findings:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
    found = findings_of(as_dataset({"image": x, "label": np.arange(count) % len(classes)}), "npz:some.npz")
    return dataclasses.replace(found, names=classes, **change)


def planned(source: TrainedRun, found: Findings, how: HowToFinetune, examples: int = 210, **given) -> FinetunePlan:
    given = {name.replace("__", "."): value for name, value in given.items()}
    return make_plan(look_ahead(source, found, how, given), examples, how, given)


def test_the_network_s_own_choices_stay_and_rates_are_small():
    plan = planned(network(), data(), HowToFinetune())
    config = plan.config
    assert (config.model.name, config.init_from, config.init_head) == ("resnet20_cifar", "runs/net", "new")
    assert (config.data.mean, config.data.std, config.data.image_size) == (MEAN, STD, None)
    assert config.optim.learning_rate == pytest.approx(plan.scratch.optim.learning_rate / 2, rel=0.01)
    assert config.optim.layer_decay == pytest.approx((1 / 3) ** 0.1, abs=1e-3)
    assert (config.optim.schedule.kind, config.optim.schedule.warmup) == ("cosine", "10%")
    assert (plan.scratch.init_from, plan.scratch.optim.layer_decay, plan.scratch.data.mean) == (None, None, ())
    assert plan.scratch.train.length == config.train.length
    for field in ("init_from", "init_head", "data.mean", "optim.learning_rate", "optim.layer_decay", "train.length"):
        assert plan.reasons[field]


def test_what_is_given_goes_before():
    given = {"optim__learning_rate": 0.5, "train__length": "3 epochs", "data__mean": [0.1] * 3, "data__std": [0.2] * 3}
    plan = planned(network(), data(), HowToFinetune(), **given)
    assert (plan.config.optim.learning_rate, plan.config.train.length) == (0.5, "3 epochs")
    assert plan.config.data.mean == (0.1,) * 3
    assert plan.reasons["optim.learning_rate"] == "given"
    adam = planned(network(), data(), HowToFinetune(), optim__name="adamw")
    assert (adam.config.optim.momentum, adam.config.optim.learning_rate) == (None, 1e-4)


def test_classes_that_it_knows_keep_their_classifier():
    known, other = (
        planned(network(names), data(), HowToFinetune()).config for names in (("ant", "bee", "fly"), ("x",))
    )
    assert (known.init_head, other.init_head) == ("exact", "new")
    assert known.optim.learning_rate < other.optim.learning_rate, "features that are for these classes already"
    assert planned(network(("bee", "ant", "fly")), data(), HowToFinetune()).config.init_head == "new"
    numbers = ("0", "1", "2")
    assert planned(network(numbers), data(numbers), HowToFinetune()).config.init_head == "new", "names of nothing"
    assert planned(network(numbers, examples={"train": 9}), data(numbers), HowToFinetune()).config.init_head == "exact"


def test_grey_images_and_other_sizes_are_brought_to_the_network_s():
    plan = planned(network(), data(shape=(8, 8, 1)), HowToFinetune())
    assert (plan.config.model.changes["in_channels"], plan.config.data.image_size) == (3, 32)
    assert plan.reasons["model.in_channels"] == "grey repeated in the 3 channels that the network takes"
    assert "images of 8 pixels are enlarged" in plan.reasons["data.image_size"]
    mean = planned(network(), data(shape=(32, 32, 1)), HowToFinetune(), init_stem="mean")
    assert ("in_channels" in mean.config.model.changes, mean.config.data.mean) == (False, ())


@pytest.mark.parametrize(
    ("source", "found", "given", "said"),
    [
        (network(), data(shape=(32, 32, 5)), {}, "takes 3 channels, and npz:some.npz has 5: init_stem mean"),
        (network(), data(dtype="float32"), {}, "was trained on uint8, and npz:some.npz holds float32"),
        (network(), data(label_kind="value"), {}, "finetune is for classes"),
        (network(), data(), {"task.kind": "binary"}, "task.kind classification, and binary is given"),
        (network(), data(), {"model.name": "resnet56_cifar"}, "is a resnet20_cifar and cannot start resnet56_cifar"),
        (network(mean=()), data(), {}, "does not say how its images are normalized"),
        (network(shape=(32, 24, 3)), data(), {}, "takes exactly 32x24, which is not square"),
        (network(), data(), {"data.image_size": 3}, "images of 3 pixels are too small for runs/net"),
        (network(), data(shapes=((32, 3),), meaning="signal"), {}, "another number of dimensions"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(source, found, given, said):
    with pytest.raises(UsageError, match=said):
        look_ahead(source, found, HowToFinetune(), given)


def test_bit_by_its_rule():
    plan = planned(network(), data(), HowToFinetune("bit"), examples=600)
    config, optim = plan.config, plan.config.optim
    assert (config.train.batch_size, config.train.length, optim.learning_rate) == (512, "500 steps", 0.003)
    assert (optim.momentum, optim.nesterov, optim.weight_decay, optim.layer_decay) == (0.9, False, 0.0, None)
    assert optim.schedule.milestones == ("30%", "60%", "90%")
    assert (config.model.changes["head_init"], config.init_head) == ("zeros", "new")
    assert "head_init" not in plan.scratch.model.changes
    assert not any("mixup" in one for one in config.data.augment)
    medium = planned(network(), data(), HowToFinetune("bit"), examples=45_000).config
    assert (medium.train.length, medium.data.augment[-1]) == ("10000 steps", "mixup(0.1)")
    few = planned(network(("ant", "bee", "fly")), data(), HowToFinetune("bit"), examples=210)
    assert (few.config.train.batch_size, few.config.train.length) == (128, "2000 steps")
    assert few.config.optim.learning_rate == pytest.approx(0.003 / 4)
    assert few.config.init_head == "new", "BiT begins with a new classifier, also of classes that are known"
    assert few.scratch.optim.learning_rate == pytest.approx(0.1)
    large = network(shape=(224, 224, 3), name="resnet18")
    assert planned(large, data(), HowToFinetune("bit"), examples=600).config.data.image_size == 128
    assert planned(large, data(), HowToFinetune(), examples=600).config.data.image_size == 224


def test_few_images_still_make_batches_to_normalize_by():
    few = planned(network(), data(count=60), HowToFinetune(), examples=45)
    assert (few.config.train.batch_size, few.scratch.train.batch_size) == (16, 16)
    assert "norm_scope" not in few.config.model.changes
    small, enough = (planned(network(), data(), HowToFinetune(), train__batch_size=size).config for size in (8, 16))
    assert (small.model.changes["norm_scope"], "norm_scope" in enough.model.changes) == ("frozen", False)
    assert small.optim.learning_rate < enough.optim.learning_rate / 4


def test_the_classifier_alone_is_all_that_its_stage_trains():
    source, how = network(), HowToFinetune(head_share=0.25)
    plan = planned(source, data(), how, train__length="8 epochs", train__batch_size=21)
    alone = head_steps(how, plan.steps)
    assert (plan.steps, alone) == (80, 20)
    head = head_config(plan.config, how, alone, source.model, (32, 32, 3))
    assert set(head.optim.freeze) == {"stem", "stage1", "stage2", "stage3"}
    assert (head.model.changes["norm_scope"], head.optim.layer_decay, head.train.length) == ("frozen", None, "20 steps")
    assert head.optim.learning_rate == pytest.approx(0.1 * 21 / 128, rel=1e-3)
    whole = with_steps(starting_from(plan.config, Path("runs/head")), plan.steps - alone)
    assert (whole.init_from, whole.init_head, whole.train.length) == ("runs/head", "exact", "60 steps")
    assert (whole.optim, whole.model) == (plan.config.optim, plan.config.model)
    assert (head_steps(HowToFinetune("linear"), 9), head_steps(HowToFinetune("bit"), 9)) == (9, 0)
    with pytest.raises(UsageError, match="head_share 1 leaves nothing"):
        HowToFinetune(head_share=1.0)
