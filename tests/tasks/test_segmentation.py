"""Segmentation: the scores are NumPy's and scikit-learn's, the loss is its formula, void pixels count nowhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.errors import UsageError
from resnet_jax.tasks import TaskConfig, TaskFacts, make_task
from resnet_jax.tasks.segmentation import Segmentation
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.step import make_eval_step

K, SIDES = 4, (6, 10)


class Echo(nn.Module):
    """A network that gives what it is given."""

    @nn.compact
    def __call__(self, x, *, train):
        return x


def drawn(count: int, label_sides=SIDES, seed: int = 0):
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(count, *SIDES, K)).astype(np.float32)
    labels = rng.integers(0, K - 1, (count, *label_sides)).astype(np.uint8)  # the last class never occurs
    labels[rng.random(labels.shape) < 0.2] = 255
    labels[0] = 255  # an image without a labelled pixel
    return outputs, labels


def in_batches(outputs, labels, size):
    for start in range(0, len(outputs), size):
        part = slice(start, start + size)
        found, true = outputs[part], labels[part]
        more = size - len(found)
        yield {
            "image": np.concatenate([found, np.ones((more, *found.shape[1:]), np.float32)]),
            "segmentation": np.concatenate([true, np.zeros((more, *true.shape[1:]), np.uint8)]),
            "mask": np.arange(size) < len(found),
        }


def confusion_of(predicted, labels):
    matrix = np.zeros((K, K), np.int64)
    known = labels != 255
    np.add.at(matrix, (labels[known], predicted[known]), 1)
    return matrix


def test_scores_over_uneven_batches_are_those_of_a_numpy_confusion_matrix_and_of_scikit_learn():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score

    outputs, labels = drawn(7)
    task = Segmentation(K, names=("a", "b", "c", "never"))
    traces = []

    def step(variables, batch):
        traces.append(1)
        return make_eval_step(Echo(), task=task)(variables, batch)

    result = evaluate(jax.jit(step), {}, in_batches(outputs, labels, 3), mesh=make_mesh(jax.devices()[:1]), task=task)
    predicted, known = outputs.argmax(-1), labels != 255
    matrix = confusion_of(predicted, labels)
    assert len(traces) == 1
    np.testing.assert_array_equal(result.sums["confusion"], matrix)
    np.testing.assert_array_equal(result.confusion.dense(), matrix)
    each = [matrix[k, k] / (matrix[k].sum() + matrix[:, k].sum() - matrix[k, k]) for k in range(K - 1)]
    np.testing.assert_array_equal(result.details["iou"], [*each, np.nan])
    assert result.metrics["miou"] == np.mean(each)
    y, p = labels[known], predicted[known]
    np.testing.assert_allclose(each, jaccard_score(y, p, average=None, labels=range(K - 1)), rtol=1e-12)
    assert result.metrics["pixel_accuracy"] == pytest.approx(accuracy_score(y, p), abs=1e-12)
    with pytest.warns(UserWarning, match="not in y_true"):
        wanted = balanced_accuracy_score(y, p)
    assert result.metrics["mean_class_accuracy"] == pytest.approx(wanted, abs=1e-12)
    assert result.notes == ("1 of 4 classes have no pixel here and are not in the means: never",)


@pytest.mark.parametrize("label_sides", [(18, 35), (3, 5)])
def test_scores_are_at_the_labels_own_sides(label_sides):
    cv2 = pytest.importorskip("cv2")
    outputs, labels = drawn(3, label_sides)
    sums = Segmentation(K).eval_sums(jnp.asarray(outputs), {"segmentation": jnp.asarray(labels)})["confusion"]
    height, width = label_sides
    resized = np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in outputs])
    for found, each, label in zip(np.asarray(sums), resized, labels, strict=True):
        np.testing.assert_array_equal(found, confusion_of(each.argmax(-1), label))


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0, 0.0)])
@pytest.mark.parametrize("dice", [0.0, 0.7])
def test_the_loss_is_weighted_cross_entropy_over_labelled_pixels_and_dice(weights, dice):
    outputs, labels = drawn(4)
    task = Segmentation(K, weights, dice)
    losses = np.asarray(task.loss(jnp.asarray(outputs), {"segmentation": jnp.asarray(labels)}))
    p = np.exp(outputs.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    for loss, shares, label in zip(losses[1:], p[1:], labels[1:], strict=True):
        known = label != 255
        y, q = label[known], shares[known]
        factors = np.asarray(weights or (1.0,) * K)[y]
        wanted = -(factors * np.log(q[np.arange(len(y)), y])).mean()
        overlaps = [2 * q[y == k, k].sum() / (q[:, k].sum() + (y == k).sum()) for k in np.unique(y)]
        assert loss == pytest.approx(wanted + dice * (1 - np.mean(overlaps)), rel=1e-5)
    assert losses[0] == 0
    slope = jax.grad(lambda x: task.loss(x, {"segmentation": jnp.asarray(labels)}).sum())(jnp.asarray(outputs))
    np.testing.assert_array_equal(slope[labels == 255], 0)
    assert np.isfinite(slope).all()


def test_the_loss_of_smaller_outputs_is_of_the_labels_in_the_middle_of_their_positions():
    outputs, labels = drawn(2, tuple(3 * side for side in SIDES))
    task = Segmentation(K)
    whole = task.loss(jnp.asarray(outputs), {"segmentation": jnp.asarray(labels)})
    middle = task.loss(jnp.asarray(outputs), {"segmentation": jnp.asarray(labels[:, 1::3, 1::3])})
    np.testing.assert_array_equal(whole, middle)
    sums = task.train_sums(jnp.asarray(outputs), {"segmentation": jnp.asarray(labels)})
    right = (outputs.argmax(-1) == labels[:, 1::3, 1::3]).sum(axis=(1, 2))
    np.testing.assert_array_equal(sums["right_pixels"], right)


def test_pixels_of_no_class_are_refused_and_give_no_number_on_the_device():
    outputs, labels = drawn(3)
    labels[2, 1, 1] = K
    task = Segmentation(K)
    with pytest.raises(UsageError, match=r"pixels of class 4 in example 2 of the batch, outside 0\.\.3"):
        task.check({"segmentation": labels})
    task.check({"segmentation": labels, "mask": np.array([True, True, False])})
    losses = task.loss(jnp.asarray(outputs), {"segmentation": jnp.asarray(labels)})
    assert np.isnan(losses).tolist() == [False, False, True]
    with pytest.raises(UsageError, match="needs examples with a field 'segmentation'"):
        task.check({"image": outputs})


def test_balanced_weights_are_of_pixels():
    facts = TaskFacts("segmentation", ("a", "b"), examples=3, counts=(300, 100))
    task = make_task(TaskConfig(class_weights="balanced"), facts)
    assert isinstance(task, Segmentation)
    assert (task.kind, task.class_weights) == ("segmentation", (400 / 600, 400 / 200))
    with pytest.raises(
        UsageError, match=r"dice_weight 1\.0 is not used by task\.kind classification, but by segmentation"
    ):
        make_task(TaskConfig(dice_weight=1.0), TaskFacts("class", ("a", "b"), 3, (2, 1)))
    with pytest.raises(UsageError, match=r"task\.class_weights has 3 numbers for 2 classes"):
        make_task(TaskConfig(class_weights=(1.0, 2.0, 3.0)), facts)


def test_predictions_are_the_classes_by_their_share_of_the_pixels():
    outputs = np.zeros((1, 2, 2, 3), np.float32)
    outputs[0, 0, 0, 1] = outputs[0, 0, 1, 1] = outputs[0, 1, 0, 1] = outputs[0, 1, 1, 2] = 1
    task = Segmentation(3)
    assert task.predict(outputs, 5) == [[(1, 0.75), (2, 0.25)]]
    assert task.predicted_fields(outputs)["segmentation"].tolist() == [[[1, 1], [1, 2]]]
