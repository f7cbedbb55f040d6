"""Runs of two towers: what they need, and one from its configuration to picture, evaluation and resumption."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from resnet_jax import fit, load_recipe
from resnet_jax.data import load_dataset
from resnet_jax.depth.arrays import open_arrays
from resnet_jax.errors import UsageError
from resnet_jax.models.towers import TwoTowers
from resnet_jax.runs.config import config_to_yaml
from resnet_jax.runs.directory import DatasetInfo, parse_card
from resnet_jax.runs.evaluate import evaluate_run
from resnet_jax.runs.network import build_network
from resnet_jax.runs.other_input import OtherInput, other_input, require_other
from resnet_jax.runs.promise import smoke_config
from resnet_jax.runs.recipes import load_about, parse_config
from resnet_jax.runs.trained import load_network
from resnet_jax.training.observers import Observer

OTHER = OtherInput((64, 1), "float32", (0.3,), (0.2,))
CARD = DatasetInfo(tuple("0123456789"), (8, 8, 1), (0.5,), (0.2,), {"train": 100}, other=OTHER)
PAIRS = "task: {kind: contrastive, embedding_width: 12}\n"


class _Killed(BaseException):
    """The process is gone."""


class _KillAt(Observer):
    """Ends the session at a step, as a kill would."""

    def __init__(self, step):
        self._step = step

    def on_step(self, row):
        if row["step"] == self._step:
            raise _Killed


def parsed(text):
    return parse_config(text, where="this test")


def test_each_input_has_its_own_network():
    model = build_network(parsed(PAIRS + "other: {model: {name: resnet18, stem: cifar}}\n"), CARD)
    assert isinstance(model, TwoTowers)
    left, right = model.left.config, model.right.config
    assert (left.spatial_dims, left.in_channels, left.num_classes, len(left.stage_sizes)) == (2, 1, 12, 3)
    assert (right.spatial_dims, right.in_channels, right.num_classes, len(right.stage_sizes)) == (1, 1, 12, 4)
    assert model.other_shape == (64, 1)


def test_the_configuration_and_what_is_known_of_the_data_are_read_back():
    config = parsed(PAIRS + "other: {model: {norm: group, norm_groups: 4}, augment: [jitter(0.1)]}\n")
    assert parse_config(config_to_yaml(config), where="x") == config
    assert config.other.augment == ("jitter(0.1)",)
    assert parse_card(json.dumps(dataclasses.asdict(CARD))) == CARD


@pytest.mark.parametrize(
    ("text", "card", "said"),
    [
        (PAIRS, dataclasses.replace(CARD, other=None), "those of digits have one: data.source pairs:LEFT.RIGHT"),
        ("other: {model: {norm: group}}\n", CARD, "other is of tasks of two inputs, such as task.kind contrastive"),
        (PAIRS + "other: {model: {num_classes: 3}}\n", CARD, "other.model.num_classes 3 does not go with the task"),
        (
            PAIRS + "other: {model: {spatial_dims: 2}}\n",
            CARD,
            "other.model.spatial_dims 2 does not go with inputs of 1",
        ),
        (PAIRS + "model: {dtype: bfloat16}\n", CARD, "the two towers need the same dtype"),
    ],
)
def test_what_does_not_go_together_is_refused(text, card, said):
    with pytest.raises(UsageError, match=said):
        build_network(parsed(text), card)


def test_what_is_done_on_the_host_is_not_for_the_second_input():
    with pytest.raises(UsageError, match=r"other.augment random_resized_crop"):
        parsed(PAIRS + "other: {augment: [random_resized_crop]}\n")


def test_examples_have_to_have_the_second_input_that_the_network_knows():
    records = load_dataset("digits_pairs").splits["test"]
    require_other(OTHER, records, "here")
    with pytest.raises(UsageError, match=r"the second input of here is float32 \(64, 1\), .* on float32 \(32, 1\)"):
        require_other(dataclasses.replace(OTHER, shape=(32, 1)), records, "here")
    assert other_input(load_dataset("digits").splits["all"], None) is None
    found = other_input(records, None)
    assert found is not None
    values = np.stack([records[i]["other"] for i in range(len(records))])
    assert (found.mean[0], found.std[0]) == pytest.approx((values.mean(), values.std()), abs=1e-5)


@pytest.mark.slow
def test_a_run_of_pairs_from_its_recipe_to_its_picture_and_back(tmp_path):
    about = load_about("digits-pairs")
    assert about is not None
    config = smoke_config(load_recipe("digits-pairs"), about, "digits-pairs")
    summary = fit(config, tmp_path / "run").summary
    assert summary.headline == "class_recall1"
    assert set(summary.per_class) == {"precision", "recall", "f1"}
    assert set(summary.metrics) >= {"zero_shot_image", "zero_shot_other", "zero_shot_both", "temperature"}
    kept = open_arrays(tmp_path / "run" / "examples.npz")
    assert kept["similarity"].shape == (200, 200)
    assert (np.abs(kept["similarity"]) <= 1.001).all()
    assert (tmp_path / "run" / "examples.png").is_file()
    again = evaluate_run(tmp_path / "run")
    assert again.metrics == pytest.approx(summary.metrics, abs=1e-6)
    with pytest.raises(UsageError, match="is a network of two towers, and this takes one of one input"):
        load_network(tmp_path / "run")
    with pytest.raises(UsageError, match="digits has examples of one input, and the network takes two"):
        evaluate_run(tmp_path / "run", source="digits")
    # killed and resumed, it is the same run
    with pytest.raises(_Killed):
        fit(config, tmp_path / "killed", observers=[_KillAt(15)])
    assert fit(config, tmp_path / "killed").summary.params_digest == summary.params_digest
