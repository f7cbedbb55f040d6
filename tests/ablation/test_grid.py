"""Axes, named cells and seeds as people write them, and the configurations they make."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, strategies as st

from resnet_jax.ablation.grid import (
    Axis,
    load_cells,
    make_cells,
    options,
    parse_agc,
    parse_axis,
    parse_seeds,
    scalar_options,
)
from resnet_jax.errors import UsageError
from resnet_jax.models import ModelSpec
from resnet_jax.runs.config import RunConfig, config_to_dict
from resnet_jax.runs.legacy_augment import OLD_FIELDS
from resnet_jax.training.optimizers import OptimConfig


@pytest.mark.parametrize(
    ("key", "text", "values"),
    [
        ("model.norm", "batch,group,none", ("batch", "group", "none")),
        ("model.residual", "plain, fixup", ("plain", "fixup")),
        ("model.num_classes", "None,12", (None, 12)),
        ("optim.learning_rate", "0.1,1e-2,3", (0.1, 0.01, 3.0)),
        ("optim.clip_norm", "None,1", (None, 1.0)),
        ("optim.nesterov", "None,true,off", (None, True, False)),
        ("data.flip", "on,off", (True, False)),
        ("train.batch_size", "32", (32,)),
        ("optim.schedule.warmup", "1 epochs,50%", ("1 epochs", "50%")),
    ],
)
def test_values_are_read_as_the_type_of_the_option(key, text, values):
    axis = parse_axis(key, text)
    assert axis == Axis(key, values)
    assert [type(value) for value in axis.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("model.nrom", "batch,none", "unknown option 'model.nrom'; did you mean 'model.norm'"),
        ("data.mean", "0.1,0.2", "unknown option 'data.mean'"),
        ("train.batch_size", "1,two", "train.batch_size: .*'two'"),
        ("train.batch_size", "None,2", "train.batch_size: .*'None'"),
        ("model.norm", "batch,,none", "model.norm: there is an empty value"),
        ("model.norm", "batch,", "model.norm: there is an empty value"),
        ("optim.learning_rate", "0.1,0.10", "optim.learning_rate has the value 0.1 twice"),
    ],
)
def test_lists_that_make_no_axis_are_refused(key, text, message):
    with pytest.raises(UsageError, match=message):
        parse_axis(key, text)


def test_every_option_of_all_sections_is_there_and_only_those_of_one_value_are_axes():
    config = config_to_dict(RunConfig())
    flat = set()
    for part in ("data", "optim", "train", "task"):
        for name, value in config[part].items():
            flat |= {f"{part}.{name}.{child}" for child in value} if isinstance(value, dict) else {f"{part}.{name}"}
    before = {f"data.{name}" for name in OLD_FIELDS}  # which edit data.augment
    networks = {f"{network}.{name}" for network in ("model", "other.model") for name in ModelSpec.option_hints()}
    assert set(options()) == flat | before | networks | {"other.augment"}
    assert {"data.mean", "data.std", "optim.decay_roles", "optim.schedule.milestones"} <= flat - set(scalar_options())
    assert {"model.name", "train.length", "optim.schedule.kind", "task.loss"} <= set(scalar_options())


@pytest.mark.parametrize(
    ("text", "own", "values", "labels"),
    [
        ("off,on", None, (None, 0.01), ["off", "on"]),
        ("on", None, (0.01,), ["on"]),
        ("off,on", 0.04, (None, 0.04), ["off", "on"]),
        ("off,0.02,0.08", None, (None, 0.02, 0.08), ["off", "0.02", "0.08"]),
    ],
)
def test_agc_is_off_on_or_a_strength(text, own, values, labels):
    base = RunConfig(optim=OptimConfig(agc=own))
    axis = parse_agc(text, base)
    assert axis == Axis("optim.agc", values)
    assert [axis.label(value) for value in values] == labels
    configs = [cell.configure(base) for cell in make_cells([axis])]
    assert tuple(config.optim.agc for config in configs) == values


@pytest.mark.parametrize(
    ("text", "message"), [("off,yes", "agc=yes is none of off, on or a strength"), ("on,0.01", "0.01 twice")]
)
def test_agc_refuses_other_words(text, message):
    with pytest.raises(UsageError, match=message):
        parse_agc(text, RunConfig())


@pytest.mark.parametrize("text", ["", "x", "3,x", "-1", "0", "1,1", "1,,2", ",", "1.5"])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="seeds="):
        parse_seeds(text)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True))
def test_a_list_of_seeds_is_itself_and_a_number_is_a_count(seeds):
    assert parse_seeds(",".join(map(str, seeds)) + ",") == tuple(seeds)
    assert parse_seeds(str(len(seeds))) == tuple(range(len(seeds)))


def test_cells_are_the_product_of_named_cells_and_axes_each_one_change_of_the_base():
    axes = [parse_axis("optim.learning_rate", "0.1,0.2"), parse_axis("optim.name", "sgd,lars")]
    named = {"BN": {}, "GN, wide": {"model.norm": "group", "data.mean": [0.5, 0.5, 0.5], "data.std": [1, 1, 1]}}
    cells = make_cells(axes, named)
    assert [cell.id for cell in cells] == [
        f"{name}_learning_rate-{rate}_optim-{optim}"
        for name in ("BN", "GN-wide")
        for rate in ("0.1", "0.2")
        for optim in ("sgd", "lars")
    ]
    assert cells[5].labels == {"cell": "GN, wide", "learning_rate": "0.1", "optim": "lars"}
    assert cells[5].label == "GN, wide, learning_rate 0.1, optim lars"
    base = RunConfig(seed=3)
    got = cells[5].configure(base)
    expected = dataclasses.replace(
        base,
        model=base.model.replace(norm="group"),
        data=dataclasses.replace(base.data, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)),
        optim=dataclasses.replace(base.optim, learning_rate=0.1, name="lars"),
    )
    assert got == expected
    assert cells[0].configure(base) == base


def test_without_axes_there_is_the_recipe_itself():
    [cell] = make_cells([])
    assert (cell.id, cell.label, cell.settings) == ("base", "base", {})
    assert cell.configure(RunConfig()) == RunConfig()


def test_columns_that_would_have_one_name_keep_their_keys():
    cells = make_cells(
        [parse_axis("model.name", "resnet20_cifar,resnet32_cifar"), parse_axis("model.dtype", "None,float32")]
    )
    assert list(cells[0].labels) == ["model", "dtype"]
    cells = make_cells([Axis("optim.decay", (0.1,)), Axis("model.decay", (0.2,))])
    assert list(cells[0].labels) == ["optim.decay", "model.decay"]


def test_ids_are_unique_whatever_the_names():
    long = "x" * 150
    cells = make_cells([], {"a b": {}, "a-b": {}, "A B": {}, long: {}, long + "y": {}, "../..": {}, "Ω": {}})
    ids = [cell.id for cell in cells]
    assert len({name.lower() for name in ids}) == len(ids)
    assert max(map(len, ids)) <= 100
    assert all("/" not in name and not name.startswith(".") for name in ids)


def test_options_varied_twice_are_refused():
    norm = parse_axis("model.norm", "batch,group")
    with pytest.raises(UsageError, match=r"model\.norm is given twice"):
        make_cells([norm, norm])
    with pytest.raises(UsageError, match=r"model\.norm is an axis, and cell GN sets it too"):
        make_cells([norm], {"GN": {"model.norm": "group"}})


def test_a_setting_that_no_configuration_can_have_is_refused_with_its_cell():
    [cell] = make_cells([], {"long": {"train.batch_size": "many"}})
    with pytest.raises(UsageError, match=r"cell long: train\.batch_size .*'many'"):
        cell.configure(RunConfig())


def test_named_cells_are_read_from_yaml(tmp_path):
    path = tmp_path / "cells.yaml"
    path.write_text("BN:\nGN: {model.norm: group, optim.schedule.milestones: ['50%']}\n32: {train.length: 3 epochs}\n")
    assert load_cells(path) == {
        "BN": {},
        "GN": {"model.norm": "group", "optim.schedule.milestones": ["50%"]},
        "32": {"train.length": "3 epochs"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read .*cells"),
        ("a: [", "not valid YAML"),
        ("", "must map names of cells"),
        ("[a, b]", "must map names of cells"),
        ("GN: group", "must map names of cells"),
        ("GN: {model.nrom: group}", r"unknown option in cell GN of .*'model.nrom'; did you mean 'model.norm'"),
        ("GN: {model: {norm: group}}", "unknown option in cell GN"),
        ("GN: {seed: 3}", "unknown option in cell GN"),
    ],
)
def test_files_that_name_no_cells_are_refused(tmp_path, text, message):
    path = tmp_path / "cells.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_cells(path)


def test_names_of_cells_are_as_they_are_written(tmp_path):
    path = tmp_path / "cells.yaml"
    path.write_text(
        "on: {model.norm: group}\n010: {}\nnull: {}\n2024-01-01: {}\n1e3: {}\n'é|猫': {}\n", encoding="utf-8"
    )
    assert list(load_cells(path)) == ["on", "010", "null", "2024-01-01", "1e3", "é|猫"]
    for twice in ("a: {}\na: {}\n", "on: {}\nyes: {}\n"):
        path.write_text(twice)
        with pytest.raises(UsageError, match="twice"):
            load_cells(path)
