"""Metrics of examples that are there several times are those of data that has them several times; intervals hold."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.deploy.card import resampling
from resnet_jax.deploy.card.resampling import intervals, statistic_of
from resnet_jax.runs.evaluate import RunEvaluation
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.detection import Detection
from resnet_jax.tasks.ranking import RankedScores, roc_auc
from resnet_jax.tasks.regression import Regression
from resnet_jax.tasks.segmentation import Segmentation
from resnet_jax.training.step import SUMMAND

RNG = np.random.default_rng(3)
TIMES = np.array([2, 0, 1, 3, 1, 0, 2, 1])
INDEX = np.repeat(np.arange(8), TIMES)


def boxes() -> dict[str, np.ndarray]:
    """Detections of two classes in 8 images, near to the true boxes or not, with crowds among these."""
    true = RNG.uniform(0, 20, (8, 4, 2))
    true = np.concatenate([true, true + RNG.uniform(4, 10, (8, 4, 2))], axis=-1)
    return {
        "boxes": true,
        "box_label": RNG.integers(-1, 2, (8, 4)),
        "crowd": RNG.uniform(size=(8, 4)) < 0.2,
        "found_boxes": np.tile(true, (1, 3, 1)) + RNG.normal(size=(8, 12, 4)),
        "found_labels": RNG.integers(-1, 2, (8, 12)),
        "found_scores": RNG.permutation(96).reshape(8, 12) / 96.0,
    }


def test_of_boxes_it_is_the_average_precision_of_the_images_repeated():
    rows, task = boxes(), Detection(2)
    found = statistic_of(task, RunEvaluation(0.0, 8, rows=rows))[0](TIMES)
    repeated = {name: each[INDEX] for name, each in rows.items()}
    for name, value in task.eval_metrics({}, repeated, len(INDEX)).items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert found["ap50 of each"] == pytest.approx(task.eval_details({}, repeated, 10)["ap50"], abs=1e-9)
    whole = statistic_of(task, RunEvaluation(0.0, 8, rows=rows))[0](np.ones(8, int))
    assert whole["map"] == pytest.approx(task.eval_metrics({}, rows, 8)["map"], abs=1e-12)


def test_of_classes_it_is_the_metrics_of_the_examples_repeated():
    task, scores = Classification(3), RNG.normal(size=(8, 3)).round(1)  # with ties
    rows = {"label": np.array([0, 1, 2, 0, 1, 2, 0, 2]), "prediction": scores.argmax(axis=1), "scores": scores}
    found = statistic_of(task, RunEvaluation(0.0, 8, rows=rows))[0](TIMES)
    sums = {name: np.ones(15) for name in ("bin_count", "bin_confidence", "bin_correct")} | {"correct": np.ones(())}
    wanted = task.eval_metrics(sums, {name: each[INDEX] for name, each in rows.items()}, len(INDEX))
    assert found == pytest.approx({name: wanted[name] for name in found}, abs=1e-12)
    assert {"macro_f1", "auc"} <= set(found)
    ranked = RankedScores.of(rows["label"] == 1, scores[:, 1])
    assert ranked.auc(TIMES) == pytest.approx(roc_auc(rows["label"][INDEX] == 1, scores[INDEX, 1]), abs=1e-12)
    assert np.isnan(ranked.auc((rows["label"] == 1).astype(int)))


def test_of_pixels_images_are_drawn_and_not_pixels(monkeypatch):
    """Images that are wholly right or wholly wrong: the interval is that of 8 images, however many pixels they have."""
    confusion = np.zeros((8, 2, 2))
    confusion[:, 0, 0] = 1000
    confusion[::2, 1, 1], confusion[1::2, 1, 0] = 1000, 1000
    rows, sums = {f"{SUMMAND}confusion": confusion}, {"confusion": confusion.sum(axis=0)}
    result, task = RunEvaluation(0.0, 8, sums=sums, rows=rows), Segmentation(2)
    monkeypatch.setattr(resampling, "DRAWS", 250)
    found, draws = intervals(task, result)
    assert draws == 250
    low, high = found["pixel_accuracy"]
    assert low < 0.6 < task.eval_metrics(sums, {}, 8)["pixel_accuracy"] < 0.9 < high
    assert np.shape(found["iou of each"][0]) == (2,)


def test_the_interval_of_a_mean_absolute_error_is_the_normal_one(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 400)
    error = np.abs(RNG.normal(size=(400, 1)))
    rows = {"label": np.zeros((400, 1)), "prediction": error}
    found, width = intervals(Regression(1), RunEvaluation(0.0, 400, rows=rows))[0], 1.96 * error.std() / 20
    wanted = pytest.approx((error.mean() - width, error.mean() + width), abs=0.01)
    assert tuple(map(float, found["mae"])) == wanted
    assert tuple(map(float, np.ravel(found["mae of each"]))) == wanted
