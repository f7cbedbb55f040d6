"""Counts of pairs are the confusion matrix, without its memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.confusion import Confusion
from resnet_jax.training.evaluation import EvaluationSums


def _sums(labels, predictions, classes):
    sums = EvaluationSums(Classification(classes))
    for label, prediction in zip(np.split(labels, 4), np.split(predictions, 4), strict=True):
        mask = np.ones(len(label), bool)
        mask[-1] = False  # padding counts nowhere
        bins = {name: np.ones(15) for name in ("bin_count", "bin_confidence", "bin_correct")}
        out = {"loss_sum": 1.0, "sums": {"correct": (label == prediction)[mask].sum(), **bins}, "count": mask.sum()}
        sums.add({"mask": mask}, {**out, "rows": {"label": label, "prediction": prediction}})
    return sums.result()


def test_it_is_the_matrix():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 7, (2, 400))
    counted = np.arange(400) % 100 != 99
    expected = np.zeros((7, 7), np.int64)
    np.add.at(expected, (labels[counted], predictions[counted]), 1)
    confusion = _sums(labels, predictions, 7).confusion
    np.testing.assert_array_equal(confusion, expected)
    np.testing.assert_array_equal(confusion.total_of_true(), expected.sum(1))
    np.testing.assert_array_equal(confusion.correct_of_true(), np.diag(expected))
    np.testing.assert_array_equal(Confusion.from_dense(expected), expected)
    assert len(confusion) == 7
    assert confusion.counts.dtype == np.int64


def test_thousands_of_classes_take_no_gigabytes():
    """8,142 classes took 530 MB for the matrix alone, and 5.9 GB to draw it."""
    labels = np.arange(8142 - 8142 % 4)
    tracemalloc.start()
    confusion = _sums(labels, (labels * 7) % 8142, 200_000).confusion
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert confusion.total_of_true().sum() == len(labels) - 4
    with pytest.raises(ValueError, match="200000 x 200000 classes is too large"):
        confusion.dense()


def test_neighbours_together():
    matrix = np.arange(25).reshape(5, 5)
    grouped = Confusion.from_dense(matrix).grouped(2)
    padded = np.pad(matrix, ((0, 1), (0, 1))).reshape(3, 2, 3, 2).sum((1, 3))
    np.testing.assert_array_equal(grouped, padded)


def test_a_picture_of_thousands_of_classes_is_drawn_in_little_memory(tmp_path):
    from resnet_jax.report.plots import plot_confusion

    classes = 8142
    confusion = Confusion.of({(index, index): 1 for index in range(classes)}, classes)
    tracemalloc.start()
    plot_confusion(confusion, [str(index) for index in range(classes)], tmp_path / "c.png", title="many")
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert (tmp_path / "c.png").stat().st_size > 1000
