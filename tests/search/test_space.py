"""Space files: what is read, and every mistake named with the file, the option and what would be right."""

from __future__ import annotations

import re

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.search.space import Dimension, Space, parse_space, read_space, searchable

GOOD = """
optim.learning_rate: {log: [0.01, 1]}
optim.momentum: {range: [0, 0.98]}
data.repeats: {int: [1, 3]}
optim.clip_norm: {choice: [null, 1.0]}
model.widths: {choice: [[8, 16, 32], [16, 32, 64]]}
seed: each
"""


def read(tmp_path, text, recipe="digits"):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(path, load_recipe(recipe))


def test_every_kind_is_read_and_comes_back_from_what_is_written(tmp_path):
    space = read(tmp_path, GOOD)
    assert space.dimensions[:3] == (
        Dimension("optim.learning_rate", "log", (0.01, 1.0)),
        Dimension("optim.momentum", "range", (0.0, 0.98)),
        Dimension("data.repeats", "int", (1, 3)),
    )
    assert space.seeds == "each"
    assert parse_space(space.to_dict(), load_recipe("digits"), where="again") == space


def test_what_optuna_draws_becomes_a_value_of_the_option_and_back(tmp_path):
    space = read(tmp_path, GOOD)
    widths, clip = space.dimensions[4], space.dimensions[3]
    assert widths.drawn([8, 16, 32]) == "[8, 16, 32]"
    assert widths.value("[16, 32, 64]") == [16, 32, 64]
    assert (clip.value(None), clip.value(1.0)) == (None, 1.0)
    assert space.values({"optim.learning_rate": 0.5}) == {"optim.learning_rate": 0.5}


def test_what_yaml_takes_for_a_text_is_the_number_that_it_is(tmp_path):
    [one] = read(tmp_path, "optim.learning_rate: {log: [1e-3, 1e+0]}").dimensions
    assert one.values == (0.001, 1.0)


def test_a_seed_may_be_a_dimension():
    space = parse_space({"seed": {"choice": [3, 4]}}, load_recipe("digits"), where="x")
    assert space == Space((Dimension("seed", "choice", (3, 4)),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "space.yaml must be a mapping of options to values"),
        ("- 1", "space.yaml must be a mapping of options to values"),
        ("a: [", "space.yaml is not valid YAML"),
        ("seed: each", "space.yaml varies nothing: add an option"),
        ("seed: 3\noptim.momentum: {range: [0, 0.9]}", "seed must be same .* each .* or .choice: .*, got 3"),
        (
            "optim.learing_rate: {log: [0.1, 1]}",
            "unknown option 'optim.learing_rate'; did you mean 'optim.learning_rate",
        ),
        ("optim.learning_rate: 0.1", r"optim.learning_rate must be one of \{log: .*, got 0.1"),
        ("optim.learning_rate: {uniform: [0, 1]}", r"optim.learning_rate must be one of \{log: "),
        ("optim.learning_rate: {log: 0.1}", r"must be written as \{log: \[0.001, 1\]\}"),
        ("optim.learning_rate: {log: [0, 1]}", "log takes positive numbers, got .*; use range"),
        ("optim.learning_rate: {log: [1, 0.1]}", "log takes two numbers, the smaller first"),
        ("optim.learning_rate: {log: [a, 1]}", "log takes two numbers, the smaller first, got .'a', 1"),
        ("optim.learning_rate: {range: [0.1, .inf]}", "range takes two numbers"),
        ("optim.momentum: {range: [0.5, 1.5]}", r"optim.momentum must be in \[0, 1\), got 1.5"),
        ("data.repeats: {int: [1.5, 3]}", "int takes two whole numbers"),
        ("data.repeats: {int: [0, 3]}", "data.repeats must be 1 or more, got 0"),
        ("model.norm: {choice: [batch]}", "a choice has two or more different values"),
        ("model.norm: {choice: [batch, batch]}", "a choice has two or more different values"),
        ("model.norm: {choice: [batch, grop]}", "unknown .*norm 'grop'; did you mean 'group'"),
        ("train.length: {choice: [1 epochs, 2 epochs]}", "train.length cannot be searched: all trials of a search are"),
        ("data.val_fraction: {range: [0.1, 0.2]}", "data.val_fraction cannot be searched"),
        ("init_from: {choice: [a, b]}", "init_from cannot be searched: every trial starts from scratch"),
        ("train.log_every: {choice: [1 steps, 2 steps]}", "train.log_every cannot be searched: it changes nothing"),
        ("data.augment.mixup.alpha: {range: [0.1, 1]}", "data.augment has mixup 0 times, not once"),
        ("optim.momentum: {range: [0, 0.9]}\noptim.momentum: {range: [0, 0.5]}", "momentum"),
    ],
)
def test_a_mistake_is_named_with_the_file_and_the_option(tmp_path, text, message):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert re.search(message, str(caught.value)), caught.value
    assert "space.yaml" in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        read_space(tmp_path / "nowhere.yaml", load_recipe("digits"))


def test_what_decides_the_comparison_is_not_searchable():
    assert not {"data.source", "train.length", "task.kind", "recipe", "init_from"} & set(searchable())
