"""Configurations: read, refused, written back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.errors import RunError, UsageError
from resnet_jax.models import ResNet
from resnet_jax.runs.config import (
    DataConfig,
    RunConfig,
    TrainConfig,
    config_to_yaml,
    differences,
    require_same,
    without_effect,
)
from resnet_jax.runs.directory import DatasetInfo, RunDirectory, default_path
from resnet_jax.runs.recipes import list_recipes, load_recipe, parse_config
from resnet_jax.training.duration import parse_duration
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.ema import Averaging
from resnet_jax.training.loss_scale import LossScaling
from resnet_jax.training.optimizers import make_optimizer


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_complete_and_survives_a_round_trip(name):
    config = load_recipe(name)
    assert config.recipe == name
    assert parse_config(config_to_yaml(config), where="test") == config
    model = ResNet(config.model.config())
    params = {"head": {"kernel": 0, "bias": 0}, "stem": {"conv": {"kernel": 0}, "norm": {"scale": 0, "bias": 0}}}
    make_optimizer(config.optim, params, steps_per_epoch=100, total_steps=10_000)
    assert model.config.num_classes > 0


def test_the_he_recipe_is_that_of_the_paper():
    config = load_recipe("cifar10-resnet20")
    _, schedule = make_optimizer(
        config.optim,
        {"head": {"kernel": 0}},
        steps_per_epoch=45_000 // 128,
        total_steps=config.train.total_steps(45_000 // 128),
    )
    assert [round(float(schedule(t)), 6) for t in (0, 31_999, 32_000, 47_999, 48_000, 63_999)] == [
        0.1, 0.1, 0.01, 0.01, 0.001, 0.001,
    ]  # fmt: skip
    assert (config.optim.momentum, config.optim.weight_decay, config.train.batch_size) == (0.9, 1e-4, 128)
    assert parse_duration(config.train.length).steps(45_000 // 128) >= 64_000
    assert config.data.augment == ("random_crop(4)", "flip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {nme: resnet18}", "unknown key model.nme, did you mean model.name?"),
        ("optim: {schedule: {kinds: cosine}}", "did you mean optim.schedule.kind?"),
        ("zzz: 1", "unknown key zzz, known here: recipe, model"),
        ("train: {length: many}", "train.length: cannot read the duration 'many'"),
        ("train: {length: 5%}", "train.length is in epochs or steps, got '5%'"),
        ("train: {epochs: 0}", "train.length must be more than nothing, got '0 epochs'"),
        ("train: {max_steps: 0}", "train.limit must be more than nothing"),
        ("train: {batch_size: 0}", "train.batch_size"),
        ("train: {eval_every: 0}", "train.validate_every must be"),
        ("train: {validate_every: 5 min}", "train.validate_every is in epochs, steps or a share"),
        ("train: {accumulate: 0}", "train.accumulate"),
        ("train: {ema_decay: 1.5}", r"train.ema.decay must be in \[0, 1\)"),
        ("train: {log_every: 0}", "train.log_every must be"),
        ("train: {save_every: 3 weeks}", "train.save_every: cannot read the duration '3 weeks'"),
        ("train: {select: lst}", "train.select.*'lst'"),
        ("data: {val_fraction: 1.0}", r"data.val_fraction"),
        ("data: {test_fraction: 0}", r"data.test_fraction"),
        ("{data: {val_fraction: 0}, train: {early_stopping: 3}}", "need validation images"),
        ("data: {mean: [0.5]}", "same number of channels"),
        ("data: {mean: [0.5], std: [0]}", "data.std must be positive"),
        ("seed: -1", "seed must be 0 or more"),
        ("model: [", "not valid YAML"),
        ("- a list", "must be a mapping"),
    ],
)
def test_wrong_configurations_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_config(text, where="test.yaml")


def test_a_recipe_file_is_called_after_itself(tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {epochs: 3}")
    config = load_recipe(str(tmp_path / "mine.yaml"))
    assert (config.recipe, config.train.length) == ("mine", "3 epochs")


def test_differences_name_what_decides_the_result():
    old = RunConfig()
    new = dataclasses.replace(
        old,
        seed=3,
        train=dataclasses.replace(old.train, log_every="7 steps"),
        data=dataclasses.replace(old.data, threads=9),
    )
    assert differences(old, new) == ["seed: 0 -> 3"]
    require_same(old, old, where=Path("run"))
    with pytest.raises(RunError, match="seed: 0 -> 3"):
        require_same(old, new, where=Path("run"))


def test_default_directories_are_stable_and_differ_with_the_configuration(tmp_path):
    shipped = load_recipe("digits")
    assert default_path(shipped) == Path("runs/digits")
    changed = [default_path(dataclasses.replace(shipped, seed=seed)) for seed in (1, 2, 1)]
    assert changed[0] == changed[2] != changed[1]
    assert changed[0].name.startswith("digits-")
    own = dataclasses.replace(shipped, recipe="mine")
    assert default_path(own).name.startswith("mine-")


def test_data_that_changed_under_a_run_is_noticed(tmp_path):
    from resnet_jax.runs.directory import DatasetInfo

    run = RunDirectory.open(tmp_path / "run", RunConfig())
    with pytest.raises(RunError, match=r"has no data\.json"):
        run.read_data()
    card = DatasetInfo(("a", "b"), (8, 8, 1), (0.5,), (0.25,), {"train": 10, "test": 5})
    run.write_data(card)
    run.write_data(card)
    assert run.read_data() == card
    with pytest.raises(RunError, match="data is not what it was"):
        run.write_data(dataclasses.replace(card, examples={"train": 11, "test": 5}))


def test_how_averages_warm_up_is_a_choice_that_needs_averages():
    text = "train: {ema_decay: 0.999, ema_warmup: power, ema_warmup_power: 0.75, ema_update_after: 5}"
    train = parse_config(text, where="it").train
    assert train.averaging() == Averaging(0.999, "power", power=0.75, update_after=5)
    assert TrainConfig(ema=Averaging(0.9)).averaging() == Averaging(0.9, "tensorflow")
    assert TrainConfig().averaging() is None
    for text, message in (
        ("train: {ema_decay: 0.999, ema_warmup: timm}", "train.ema.warmup"),
        ("train: {ema_decay: 0.999, ema_warmup_power: 0.75}", "train.ema.warmup power"),
        ("train: {ema_warmup: none}", "need train.ema.decay"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_config(text, where="it")


#: What YAML 1.1 takes for something else than text, or does not take at all.
TREACHEROUS = [
    "on", "no", "y", "1e3", "1_000", "0o7", "010", "0x10", "1:30", "null", "~", "", "2024-01-01", ".inf", ".nan", "=",
    "<<", " a", "a ", "a\n", "\n", "\ta", "a: b", "a #b", "#x", "- x", "{a}", "[b]", "'", '"', "\\", "!x", "&a", "*a",
    "%a", "@a", "`a", "---", "...", "\x85", "\u2028", "\ufeff", "\udcff", "\x00", "\x1b", "\ufffe", "😀", "猫",
]  # fmt: skip
ANY = st.text(st.characters(exclude_categories=())) | st.sampled_from(TREACHEROUS)


@settings(max_examples=30, deadline=None)
@given(ANY, ANY, ANY)
def test_any_text_comes_back_from_yaml(recipe, source, init_from):
    config = RunConfig(recipe=recipe, data=DataConfig(source=source), init_from=init_from)
    text = config_to_yaml(config)
    assert text.isascii()
    assert parse_config(text, where="test") == config


@pytest.mark.parametrize("name", TREACHEROUS)
def test_any_text_comes_back_from_a_run_directory(tmp_path, name):
    config = RunConfig(recipe=name, data=DataConfig(source=name))
    card = DatasetInfo((name, "b"), (2, 2, 1), (0.5,), (0.5,), {"train": 1})
    run = RunDirectory(tmp_path)
    run.config.write_text(config_to_yaml(config), encoding="utf-8")
    run.write_data(card)
    assert run.read_config() == config
    assert run.read_data() == card


@pytest.mark.parametrize("value", ["on", "2024-01-01", "010"])
def test_text_that_is_none_to_yaml_is_to_be_quoted(value):
    with pytest.raises(UsageError, match=r"init_from: .*put it in quotes"):
        parse_config(f"init_from: {value}", where="x")


def test_a_recipe_file_is_read_in_utf8_whatever_the_locale(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbf" + "data: {source: 'folder:é猫'}\n".encode())
    assert load_recipe(str(tmp_path / "r.yaml")).data.source == "folder:é猫"
    (tmp_path / "r.yaml").write_bytes(b"recipe: \xff\n")
    with pytest.raises(UsageError, match=r"r\.yaml is not text in UTF-8: byte 8 is 0xff"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_what_was_spelled_in_numbers_before_is_read_as_what_it_meant():
    old = parse_config(
        """train: {epochs: 3, max_steps: 64000, eval_every: 2, log_every: 5, depth_every: 10, early_stopping: 4,
        loss_scale: 1024.0, loss_scale_growth_every: 7, ema_decay: 0.9, ema_warmup: none, ema_statistics: latest}""",
        where="it",
    ).train
    assert old == TrainConfig(
        "3 epochs",
        "64000 steps",
        validate_every="2 epochs",
        log_every="5 steps",
        depth_every="10 steps",
        early_stopping=EarlyStopping(4),
        loss_scale=LossScaling(1024.0, 7),
        ema=Averaging(0.9, "none", statistics="latest"),
    )
    nothing = "train: {max_steps: null, depth_every: 0, early_stopping: null, ema_decay: null}"
    assert parse_config(nothing, where="it").train == TrainConfig()
    assert parse_config("train: {early_stopping: {patience: 4}}", where="it").train.early_stopping.patience == 4


def test_lengths_are_kept_in_one_spelling():
    assert TrainConfig("5ep", "2 h", save_every="10min", log_every="1.0 step") == TrainConfig(
        "5 epochs", "2 hours", save_every="10 minutes", log_every="1 steps"
    )
    assert TrainConfig("5 epochs", "30 min").total_steps(10) == 50
    assert (TrainConfig("5 epochs", "30 min").time_limit, TrainConfig("5 epochs", "30 steps").time_limit) == (
        1800,
        None,
    )
    assert TrainConfig("5 epochs", "30 steps").total_steps(10) == 30


def test_options_without_effect_on_the_result_are_marked_where_they_are_defined():
    assert without_effect() >= {
        *("model.execution", "model.remat", "data.moved_to", "data.threads", "train.steps_per_dispatch"),
        *("train.save_every", "train.log_every", "train.depth_every", "train.observers"),
    }


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"param_dtype": "float64"}])
def test_a_run_that_is_to_go_on_in_another_precision_is_told_how(changes):
    old = RunConfig()
    new = dataclasses.replace(old, model=old.model.replace(**changes))
    name = next(iter(changes))
    with pytest.raises(RunError, match=rf"model\.{name}: .* -> .*\n.*keeps its precision.*: init_from run in another"):
        require_same(old, new, where=Path("run"))
    placed = dataclasses.replace(old, train=dataclasses.replace(old.train, placement="fsdp", forms="plain"))
    require_same(old, placed, where=Path("run"))  # where and how it is computed may change
