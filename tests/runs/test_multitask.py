"""Runs of several tasks: fields of arrays and tables, heads, what is left in the run directory, prediction."""

from __future__ import annotations

import csv
import dataclasses
import json

import cv2
import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.data.records import values_of
from resnet_jax.errors import UsageError
from resnet_jax.report.task_gradients import draw_task_gradients, read_task_gradients
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.data import load_images, load_splits
from resnet_jax.runs.fit import fit
from resnet_jax.runs.network import build_model, build_task
from resnet_jax.runs.predict import Predictor
from resnet_jax.runs.promise import smoke_config
from resnet_jax.runs.recipes import load_about, load_recipe
from resnet_jax.runs.trained import load_run
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.multitask import Multitask

RNG = np.random.default_rng(1)


def data_of(source, **changes):
    return DataConfig(source=source, val_fraction=0.2, test_fraction=0.2, **changes)


@pytest.fixture
def table(tmp_path):
    """Twenty grey images, of which some have no sex, some no age."""
    rows = []
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number}.png"), RNG.integers(0, 255, (8, 8), dtype=np.uint8))
        sex = ("f", "m", "")[number % 3]
        rows.append([f"{number}.png", ("cat", "dog")[number % 2], sex, "" if number % 4 == 0 else number / 2])
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "label_sex", "value_age"], *rows])
    return f"manifest:{tmp_path}/table.csv"


def test_columns_of_a_table_are_fields_of_its_examples(table):
    records = load_dataset(table).splits["all"]
    assert [int(records[index]["label_sex"]) for index in range(4)] == [0, 1, -1, 0]
    ages = [float(records[index]["value_age"]) for index in range(4)]
    assert np.isnan(ages[0])
    assert ages[1:] == [0.5, 1.0, 1.5]
    assert load_dataset(table).notes == ("further columns of every example: label_sex, value_age",)


def test_heads_of_a_table_have_its_names_and_numbers(table):
    config = RunConfig(data=data_of(table), task=TaskConfig(heads=("kind=label", "sex:2", "age:value")))
    card = load_images(config).card
    task = build_task(config, card)
    assert isinstance(task, Multitask)
    assert task.answer_names(()) == ("kind cat", "kind dog", "sex f", "sex m", "age")
    ages = values_of(load_splits(config)[0].train, "value_age")
    assert ages is not None
    known = ages[~np.isnan(ages)].astype(np.float64)
    assert card.targets["value_age"].examples == len(known)
    np.testing.assert_allclose(
        (card.targets["value_age"].mean[0], card.targets["value_age"].std[0]), (known.mean(), known.std())
    )
    model = build_model(config, card)
    assert (model.config.head, model.config.head_outputs) == ("several", ("kind:2", "sex:2", "age:1"))


def test_a_head_without_a_field_and_mixed_labels_are_refused(table):
    data = data_of(table)
    with pytest.raises(UsageError, match="the examples have no field lable"):
        load_images(RunConfig(data=data, task=TaskConfig(heads=("kind=lable:2",))))
    mixed = data_of(table, augment=("mixup(0.2)",))
    config = RunConfig(data=mixed, task=TaskConfig(heads=("kind=label", "sex:2")))
    with pytest.raises(UsageError, match="mixup and cutmix of data"):
        build_task(config, load_images(config).card)


@pytest.mark.slow
def test_the_recipe_leaves_its_pictures_and_predicts(tmp_path):
    recipe = load_recipe("digits-multitask")
    config = smoke_config(recipe, load_about("digits-multitask"), "digits-multitask")
    found = fit(config, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["task"] == "multitask"
    assert {"score", "digit/accuracy", "parity/accuracy", "thickness/r2"} <= set(summary["metrics"])
    gradients = read_task_gradients(tmp_path / "run" / "task_gradients.jsonl")
    assert gradients.pairs == (("digit", "parity"), ("digit", "thickness"), ("parity", "thickness"))
    assert gradients.steps.tolist() == [1, 9, 17]
    assert gradients.cosine.shape == (3, 3, 3)
    assert np.abs(gradients.cosine).max() <= 1.0001
    for name in ("task_gradients.png", "predictions.png", "examples.png", "depth.png", "curves.png"):
        assert (tmp_path / "run" / name).stat().st_size > 5_000
    draw_task_gradients(gradients, tmp_path / "again.png", title="again")
    (said,) = Predictor(load_run(tmp_path / "run")).predict([np.zeros((8, 8, 1), np.uint8)])
    assert [name.split()[0] for name in said.classes] == ["digit", "parity", "thickness"]
    assert found.summary.metrics["score"] == summary["metrics"]["score"]


@pytest.mark.slow
def test_a_mask_and_a_class(tmp_path):
    """Arrays: the digit, and whether each pixel is ink."""
    records = load_dataset("digits").splits["all"]
    images, labels = records.images[:400], records.labels[:400]  # pyright: ignore[reportAttributeAccessIssue]
    ink = (images[..., 0] > 100).astype(np.uint8)
    ink[:, 0] = 255  # of the first row nobody knows
    recipe = load_recipe("digits-multitask")
    base = smoke_config(recipe, load_about("digits-multitask"), "digits-multitask")
    model = base.model.replace(head_width=8, head="several_uncertain")
    task = TaskConfig(heads=("digit", "segmentation:2"), weighting="uncertainty")
    train = dataclasses.replace(base.train, length="160 steps")
    config = dataclasses.replace(base, task=task, model=model, train=train)
    found = fit(config, tmp_path, data={"x": images, "y": labels, "segmentation": ink})
    assert (found.summary.metrics["segmentation/miou"] or 0.0) > 0.5
    with np.load(tmp_path / "examples.npz") as kept:
        assert kept["said/segmentation"].shape == kept["segmentation"].shape == (12, 8, 8)
    assert read_task_gradients(tmp_path / "task_gradients.jsonl").pairs == (("digit", "segmentation"),)
