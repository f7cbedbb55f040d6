"""Old spellings of options: translated in YAML and on the command line, or refused with what to write."""

from __future__ import annotations

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.runs import legacy
from resnet_jax.runs.legacy import NOTHING, Moved, Refused, translate, upgrade, upgrade_option

TABLE = {
    "train.epochs": Moved("train.length", "{} epochs".format),
    "train.max_steps": Moved(
        "train.length",
        lambda steps: NOTHING if steps is None else f"{steps} steps",
        join=lambda before, steps: f"{before}, at most {steps}",
    ),
    "train.loss": Moved("task.loss"),
    "train.every": Moved("train.every", lambda every: f"{every} steps" if isinstance(every, int) else every),
    "train.stopping": Moved("train.stopping.patience"),
    "data.flip": Moved("data.mirror", typed="switch"),
    "data.still": Moved("data.mirror", lambda still: not still, typed="switch"),
    "data.mean": Moved("data.normalize", lambda mean: [*mean, "end"], typed="tuple"),
    "train.ema_gamma": Refused("write train.ema: {gamma: ...}", unused=(None, 1.0)),
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--train.epochs 3", ["--train.length", "3 epochs"]),
        ("--train.epochs=3 --seed 1", ["--train.length", "3 epochs", "--seed", "1"]),
        ("--seed=1 --train.max_steps 7", ["--seed=1", "--train.length", "7 steps"]),
        ("--train.max-steps None", []),
        ("--train.loss bce", ["--task.loss", "bce"]),
        ("--train.loss=bce,mse", ["--task.loss", "bce,mse"]),
        ("--train.epochs 3,5", ["--train.length", "3 epochs,5 epochs"]),
        ("--data.flip --x 1", ["--data.mirror", "--x", "1"]),
        ("--data.no-flip", ["--data.no-mirror"]),
        ("--data.no_still", ["--data.mirror"]),
        ("--data.still", ["--data.no-mirror"]),
        ("--data.mean 0.5 0.25 --x", ["--data.normalize", "0.5", "0.25", "end", "--x"]),
        ("--data.mean=0.5", ["--data.normalize", "0.5", "end"]),
        ("--train.ema-gamma 1.0", []),
        ("--model.norm -1 train.loss", ["--model.norm", "-1", "train.loss"]),
        ("-- --train.loss bce", ["--", "--train.loss", "bce"]),
        ("--train.no-loss", ["--train.no-loss"]),
        ("--train.every 5", ["--train.every", "5 steps"]),
        ("--train.every=5%", ["--train.every", "5%"]),
        ("--train.stopping 5", ["--train.stopping.patience", "5"]),
    ],
)
def test_old_options_are_translated_however_they_are_typed(old, new):
    assert translate(old.split(), moved=TABLE) == new


def test_a_number_gets_the_old_unit_and_a_length_is_one_already():
    for typed, length in {"3": "3 epochs", "0.5": "0.5 epochs", "3 epochs": "3 epochs", "10%": "10%"}.items():
        assert translate(["--train.eval_every", typed]) == ["--train.validate-every", length]


def test_an_option_that_a_verb_still_has_is_left_alone():
    assert translate(["--train.loss", "bce"], keep=["train.loss"], moved=TABLE) == ["--train.loss", "bce"]
    values = translate(["--train.every", "5"], keep=["train.every"], moved=TABLE)
    assert values == ["--train.every", "5 steps"], "its values may be those of before"


def test_an_option_may_become_a_section_of_its_name_or_keep_its_name():
    for every, stopping in ((5, 3), ("5 steps", {"patience": 3})):
        now = upgrade({"train": {"every": every, "stopping": stopping}}, where="x", moved=TABLE)
        assert now == {"train": {"every": "5 steps", "stopping": {"patience": 3}}}


def test_what_is_no_more_is_refused_with_what_to_write():
    for call in (
        lambda: translate(["--train.ema-gamma", "2"], moved=TABLE),
        lambda: upgrade({"train": {"ema_gamma": 2}}, where="x.yaml", moved=TABLE),
    ):
        with pytest.raises(UsageError, match=r"train\.ema_gamma 2 is no more: write train\.ema"):
            call()
    assert upgrade({"train": {"ema_gamma": None}}, where="x", moved=TABLE) == {}


def test_yaml_is_translated_into_sections_that_are_not_there_yet():
    raw = {"train": {"epochs": 3, "max_steps": None, "loss": "bce"}, "data": {"flip": True}}
    now = upgrade(raw, where="x", moved=TABLE)
    assert now == {"train": {"length": "3 epochs"}, "task": {"loss": "bce"}, "data": {"mirror": True}}
    assert raw["train"]["epochs"] == 3, "what was read is not changed"
    both = upgrade({"train": {"epochs": 3, "max_steps": 9}}, where="x", moved=TABLE)
    assert both == {"train": {"length": "3 epochs, at most 9 steps"}}
    with pytest.raises(UsageError, match=r"r\.yaml: train\.loss is the old name of task\.loss, and both are given"):
        upgrade({"train": {"loss": "bce"}, "task": {"loss": "mse"}}, where="r.yaml", moved=TABLE)
    assert upgrade({"train": None, "task": 3}, where="x", moved=TABLE) == {"train": None, "task": 3}


def test_one_option_is_translated_alone():
    assert upgrade_option("train.loss", "bce", where="x", moved=TABLE) == ("task.loss", "bce")
    assert upgrade_option("train.max_steps", None, where="x", moved=TABLE) is None
    assert upgrade_option("model.norm", "group", where="x", moved=TABLE) == ("model.norm", "group")


@pytest.fixture
def renamed(monkeypatch):
    """The width of the stem under a name that it never had."""
    monkeypatch.setitem(legacy.MOVED, "net.stem_channels", Moved("model.stem_width"))
    monkeypatch.setitem(legacy.MOVED, "model.depth", Moved("model.name", "resnet{}_cifar".format))


def test_train_and_ablate_take_old_options(renamed, tmp_path):
    from resnet_jax.ablation.grid import load_cells
    from resnet_jax.cli.ablate import split_axes
    from resnet_jax.cli.options import parse
    from resnet_jax.cli.recipe import named_recipe
    from resnet_jax.cli.train import TrainOptions
    from resnet_jax.runs.recipes import parse_config

    recipe = named_recipe(["digits", "--net.stem-channels", "12", "--model.depth=32"], "train")
    model = parse(TrainOptions, recipe.rest, verb="train", about="", default=TrainOptions(recipe.config)).config.model
    assert (model.name, model.changes) == ("resnet32_cifar", {"stem_width": 12})
    axes, rest = split_axes(named_recipe(["digits", "--model.depth", "20,32", "--seeds", "2"], "ablate").rest)
    assert [(axis.key, axis.values) for axis in axes] == [("model.name", ("resnet20_cifar", "resnet32_cifar"))]
    assert rest == ["--seeds", "2"]
    (tmp_path / "cells.yaml").write_text("deep: {model.depth: 56, net.stem_channels: 8}")
    assert load_cells(tmp_path / "cells.yaml") == {"deep": {"model.name": "resnet56_cifar", "model.stem_width": 8}}
    assert parse_config("model: {depth: 44}\nnet: {stem_channels: 4}", where="x").model == model.replace(
        "resnet44_cifar", stem_width=4
    )
