"""Metrics of every task against scikit-learn, through the eval step, with ties, padding and batches that do not fit."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn import metrics as sk

from resnet_jax.errors import UsageError
from resnet_jax.tasks import Binary, Classification, MultiLabel, Regression, average_precision, roc_auc
from resnet_jax.tasks.scores import calibration_sums, expected_calibration_error
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.step import make_eval_step, make_train_step

RNG = np.random.default_rng(0)
MESH = make_mesh(jax.devices()[:1])


class Through(nn.Module):
    """The images are the outputs."""

    @nn.compact
    def __call__(self, x, *, train):
        return x


def tied(*shape):
    """Outputs of which many are the same."""
    return RNG.integers(-4, 5, shape).astype(np.float32) / 2


def evaluation(task, outputs, labels, *, batch=13):
    """Evaluate in batches, the last of them filled up with what must not count."""
    step = jax.jit(make_eval_step(Through(), task=task, logits=True))
    batches = []
    for start in range(0, len(outputs), batch):
        there = min(batch, len(outputs) - start)
        part = {"image": np.full((batch, *outputs.shape[1:]), np.nan, np.float32), "mask": np.arange(batch) < there}
        part["label"] = np.full((batch, *labels.shape[1:]), 1, labels.dtype)
        part["image"][:there], part["label"][:there] = outputs[start : start + there], labels[start : start + there]
        batches.append(part)
    found = evaluate(step, {}, batches, mesh=MESH, task=task)
    np.testing.assert_array_equal(found.logits, outputs)
    assert found.examples == len(outputs)
    return found


def test_classification_has_the_metrics_of_scikit_learn():
    labels, outputs = RNG.integers(0, 7, 100).astype(np.int32), tied(100, 9)  # two classes never occur
    outputs[:, 8] = -9.0  # and one of them is never predicted
    found = evaluation(Classification(9), outputs, labels)
    predicted = outputs.argmax(1)
    assert found.accuracy == found.metrics["accuracy"] == sk.accuracy_score(labels, predicted)
    assert found.correct == (predicted == labels).sum()
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(labels, predicted, labels=range(9)))
    for average, scores in ((None, found.details), ("macro", {k: found.metrics[f"macro_{k}"] for k in _PRF})):
        with np.errstate(all="ignore"):
            expected = sk.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)  # pyright: ignore[reportArgumentType]
        for name, values in zip(_PRF, expected[:3], strict=True):
            got = np.asarray(scores[name])[:8] if average is None else scores[name]
            np.testing.assert_allclose(got, values, err_msg=name)
    assert np.isnan(found.details["f1"][8]), "neither there nor predicted: no score"
    distinct = outputs - 1e-3 * np.arange(9)  # argmax takes the first of equal ones; so does top5
    assert found.metrics["top5"] == sk.top_k_accuracy_score(labels, distinct, k=5, labels=range(9))
    log_p = outputs - np.logaddexp.reduce(outputs.astype(np.float64), axis=1, keepdims=True)
    assert found.loss == pytest.approx(sk.log_loss(labels, np.exp(log_p), labels=range(9)), rel=1e-6)
    assert "top5" not in evaluation(Classification(5), tied(20, 5), RNG.integers(0, 5, 20).astype(np.int32)).metrics


_PRF = ("precision", "recall", "f1")


def test_the_calibration_error_is_that_of_its_definition():
    confidence = RNG.uniform(size=200).astype(np.float32)
    confidence[:2] = 0.0, 1.0
    correct = np.ceil(confidence * 15) % 2 == 1  # right and wrong in turns: no two bins may be taken for one
    expected, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high) | ((confidence == 0) & (low == 0))
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    sums = {
        k: np.asarray(v, np.float64).sum(0)
        for k, v in calibration_sums(jnp.array(confidence), jnp.array(correct)).items()
    }
    got = expected_calibration_error(sums["bin_count"], sums["bin_confidence"], sums["bin_correct"])
    assert got == pytest.approx(expected, abs=1e-6)
    certain = evaluation(Classification(2), np.array([[20.0, -20.0]] * 4, np.float32), np.array([0, 0, 0, 1], np.int32))
    assert certain.metrics["ece"] == pytest.approx(0.25), "always sure, right in 3 of 4"


@pytest.mark.parametrize("classes", [2, 4])
def test_the_auc_of_classes_is_that_of_scikit_learn(classes):
    labels, outputs = RNG.integers(0, classes, 80).astype(np.int32), tied(80, classes)
    found = evaluation(Classification(classes), outputs, labels).metrics["auc"]
    p = np.exp(outputs - np.logaddexp.reduce(outputs.astype(np.float64), axis=1, keepdims=True))
    expected = sk.roc_auc_score(labels, p[:, 1] if classes == 2 else p, multi_class="ovr")
    assert found == pytest.approx(expected, abs=1e-12)
    assert "auc" not in evaluation(Classification(21), tied(80, 21), labels).metrics


@pytest.mark.parametrize("seed", range(4))
def test_rankings_are_those_of_scikit_learn_with_ties(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, 60), rng.integers(0, 6, 60) / 5
    assert roc_auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-14)
    assert average_precision(labels, scores) == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-14)
    assert np.isnan(roc_auc(np.ones(3), scores[:3]))
    assert np.isnan(average_precision(np.zeros(3), scores[:3]))
    assert np.isnan(roc_auc(labels, np.where(np.arange(60) == 5, np.nan, scores)))


@pytest.mark.parametrize("thresholds", [(0.5,), (0.3, 0.5, 0.6, 0.9)])
def test_multilabel_has_the_metrics_of_scikit_learn(thresholds):
    labels, outputs = RNG.integers(0, 2, (90, 4)), tied(90, 4)
    found = evaluation(MultiLabel(4, thresholds=thresholds), outputs, labels.astype(np.float32))
    probabilities = 1 / (1 + np.exp(-outputs.astype(np.float64)))
    predicted = probabilities > np.asarray(thresholds)
    assert found.metrics == pytest.approx(
        {
            "map": sk.average_precision_score(labels, outputs, average="macro"),
            "macro_auc": sk.roc_auc_score(labels, outputs, average="macro"),
            "micro_f1": sk.f1_score(labels, predicted, average="micro"),
            "macro_f1": sk.f1_score(labels, predicted, average="macro"),
            "subset_accuracy": sk.accuracy_score(labels, predicted),
        }
    )
    np.testing.assert_allclose(found.details["auc"], sk.roc_auc_score(labels, outputs, average=None))  # pyright: ignore[reportArgumentType]
    assert found.loss == pytest.approx(
        np.mean([sk.log_loss(y, p) for y, p in zip(labels.T, probabilities.T, strict=True)])
    )
    assert found.notes == ()


def test_a_label_of_one_kind_is_left_out_of_the_means_and_named():
    labels, outputs = RNG.integers(0, 2, (50, 4)), tied(50, 4)
    labels[:, 1], labels[:, 3] = 0, 1
    found = evaluation(MultiLabel(4, names=("a", "b", "c", "d")), outputs, labels)
    assert np.isnan(found.details["auc"]).tolist() == [False, True, False, True]
    assert np.isnan(found.details["average_precision"]).tolist() == [False, True, False, False]
    assert found.metrics["macro_auc"] == pytest.approx(sk.roc_auc_score(labels[:, ::2], outputs[:, ::2]))
    assert [note.split(" have ")[0] for note in found.notes] == ["1 of 4 labels (b)", "2 of 4 labels (b, d)"]


def test_positive_weights_are_those_of_pytorch():
    """-w y log p - (1 - y) log(1 - p)."""
    z, y, w = RNG.normal(size=(6, 3)).astype(np.float32), RNG.integers(0, 2, (6, 3)), (0.5, 1.0, 4.0)
    p = 1 / (1 + np.exp(-z.astype(np.float64)))
    expected = -(np.array(w) * y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1)
    got = MultiLabel(3, positive_weights=w).loss(jnp.array(z), {"label": jnp.array(y)})
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    alone = Binary(positive_weight=4.0).loss(jnp.array(z[:, 2:]), {"label": jnp.array(y[:, 2])})
    np.testing.assert_allclose(alone, -(4 * y * np.log(p) + (1 - y) * np.log(1 - p))[:, 2], rtol=1e-5)


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_binary_has_the_metrics_of_scikit_learn(threshold):
    labels, outputs = RNG.integers(0, 2, 70).astype(np.int32), tied(70, 1)
    found = evaluation(Binary(threshold=threshold), outputs, labels)
    p = 1 / (1 + np.exp(-outputs[:, 0].astype(np.float64)))
    predicted = p > threshold
    assert found.metrics == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, predicted),
            "auc": sk.roc_auc_score(labels, p),
            "average_precision": sk.average_precision_score(labels, p),
            "precision": sk.precision_score(labels, predicted),
            "recall": sk.recall_score(labels, predicted),
            "f1": sk.f1_score(labels, predicted),
        }
    )
    assert found.loss == pytest.approx(sk.log_loss(labels, p), rel=1e-6)
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(labels, predicted))


@pytest.mark.parametrize("standardized", [False, True])
def test_regression_has_the_metrics_of_scikit_learn_in_units(standardized):
    mean, std = np.array([100.0, -3.0]), np.array([20.0, 0.5])
    labels = (mean + std * RNG.normal(size=(80, 2))).astype(np.float32)
    predicted = (labels + std * 0.3 * RNG.normal(size=(80, 2))).astype(np.float32)
    outputs = ((predicted - mean) / std).astype(np.float32) if standardized else predicted
    task = Regression(2, mean=tuple(mean), std=tuple(std)) if standardized else Regression(2)
    found = evaluation(task, outputs, labels)
    expected = {
        "r2": sk.r2_score(labels, predicted),
        "rmse": sk.root_mean_squared_error(labels, predicted),
        "mae": sk.mean_absolute_error(labels, predicted),
    }
    assert found.metrics == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(found.details["r2"], sk.r2_score(labels, predicted, multioutput="raw_values"), rtol=1e-4)
    units = std if standardized else 1.0
    assert found.loss == pytest.approx((((predicted - labels) / units) ** 2).mean(), rel=1e-4)
    np.testing.assert_allclose([v for _, v in task.predict(outputs, 1)[3]], predicted[3], rtol=1e-5)
    single = evaluation(Regression(1), predicted[:, :1], labels[:, 0])
    assert single.metrics["r2"] == pytest.approx(sk.r2_score(labels[:, 0], predicted[:, 0]), rel=1e-5)


def test_equal_targets_have_no_r2_and_are_named():
    labels = np.stack([np.arange(9.0), np.full(9, 3.0)], axis=1).astype(np.float32)
    found = evaluation(Regression(2, names=("age", "legs")), labels + 1, labels)
    assert found.metrics["r2"] == found.details["r2"][0]
    assert "1 of 2 targets (legs)" in found.notes[0]


@pytest.mark.parametrize(("criterion", "expected"), [("mse", 6.5), ("l1", 2.0), ("huber", (0.5 * 1 + 2 * 3 - 2) / 2)])
def test_regression_losses_are_the_textbooks(criterion, expected):
    task = Regression(2, criterion=criterion, huber_delta=2.0)
    error = jnp.array([[1.0, -3.0]]) if criterion != "mse" else jnp.array([[2.0, 3.0]])
    assert task.loss(error, {"label": jnp.zeros((1, 2))}).tolist() == [expected]


def test_class_weights_multiply_the_loss_of_their_class():
    z, labels = jnp.array(tied(5, 3)), jnp.array([0, 2, 1, 1, 0])
    plain, weights = Classification(3).loss(z, {"label": labels}), np.array([0.5, 2.0, 3.0], np.float32)
    weighted = Classification(3, class_weights=(0.5, 2.0, 3.0))
    np.testing.assert_allclose(weighted.loss(z, {"label": labels}), plain * weights[labels], rtol=1e-6)
    half = jnp.array([[0.5, 0.5, 0.0]])
    soft = Classification(3).loss(z[:1], {"label": half})
    np.testing.assert_allclose(weighted.loss(z[:1], {"label": half}), soft * 1.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("task", "labels", "names"),
    [
        (Classification(3), np.array([0, 2, 1, 1]), ["accuracy"]),
        (MultiLabel(3), np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]), ["micro_f1"]),
        (Binary(), np.array([0, 1, 1, 0]), ["accuracy"]),
        (Regression(3, mean=(0.0,) * 3, std=(1.0, 2.0, 3.0)), RNG.normal(size=(4, 3)).astype(np.float32), ["r2"]),
    ],
)
def test_a_train_step_reports_the_sums_of_its_task_alike_in_micro_batches(task, labels, names):
    import optax

    from resnet_jax.training.state import TrainState

    model, tx = nn.Dense(task.num_outputs), optax.sgd(0.1)
    wrapped = _Wrapped(model)
    images = RNG.normal(size=(4, 5)).astype(np.float32)
    params = wrapped.init(jax.random.key(0), images, train=False)["params"]
    state = TrainState(jnp.int32(0), params, {}, tx.init(params), jax.random.key(1))
    batch = {"image": images, "label": labels}
    found = [jax.jit(make_train_step(wrapped, tx, task=task, accumulate=k))(state, batch) for k in (1, 2)]
    outputs = wrapped.apply({"params": params}, images, train=True)
    for _, metrics in found:
        sums = {name: float(value) for name, value in metrics.items() if name in task.train_sums(outputs, batch)}
        assert sums.keys() == task.train_sums(outputs, batch).keys()
        for name, value in task.train_sums(outputs, batch).items():
            assert sums[name] == pytest.approx(float(value.sum()), rel=1e-5)
        assert list(task.train_metrics(sums, 4)) == names
        assert float(metrics["loss"]) == pytest.approx(float(task.loss(outputs, batch).mean()), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *(state.params for state, _ in found))


class _Wrapped(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x, *, train):
        return self.inner(x)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (Classification(3), [0, 3], "label 3 of example 1"),
        (Binary(), [0, 2], "label 2 of example 1"),
        (MultiLabel(2), [[0, 1], [0, 2]], "labels \\[0, 2\\] of example 1"),
        (MultiLabel(2), [0, 1], r"rows \(N, 2\)"),
        (Regression(1), [0.0, np.nan], "target nan of example 1"),
        (Regression(2), [0.0, 1.0], r"\(N, 2\)"),
    ],
)
def test_targets_that_cannot_be_are_refused_on_the_host(task, labels, message):
    with pytest.raises(UsageError, match=message):
        task.check({"label": np.array(labels)})
    if np.ndim(labels) == np.ndim(task.predict(np.zeros((1, task.num_outputs)), 1)):  # of the right shape
        task.check({"label": np.array(labels), "mask": np.array([True, False])})


def test_each_task_says_what_it_sees():
    assert Classification(3).predict(np.log([[0.2, 0.5, 0.3]]), 2) == [
        [(1, pytest.approx(0.5)), (2, pytest.approx(0.3))]
    ]
    assert MultiLabel(3).predict(np.array([[1.0, -1.0, 3.0]]), 1)[0] == [
        (2, pytest.approx(0.9525741)), (0, pytest.approx(0.7310586)),
    ]  # fmt: skip
    (yes, no), (first, _) = Binary(threshold=0.8).predict(np.array([[2.0], [1.0]]), 2)
    assert (yes[0], no[0], first[0]) == (1, 0, 0), "0.73 is a no at a threshold of 0.8"
    assert Regression(2).predict(np.array([[1.5, -2.0]]), 1) == [[(0, 1.5), (1, -2.0)]]


def test_a_name_that_the_step_uses_is_refused():
    class Bad(Regression):
        def train_sums(self, outputs, batch):
            return {"loss": self.loss(outputs, batch)}

    import optax

    from resnet_jax.training.state import TrainState

    params = {"inner": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}}
    state = TrainState(jnp.int32(0), params, {}, optax.sgd(0.1).init(params), jax.random.key(1))
    step = make_train_step(_Wrapped(nn.Dense(1)), optax.sgd(0.1), task=Bad(1))
    with pytest.raises(UsageError, match="train_sums of the task has loss"):
        jax.eval_shape(step, state, {"image": np.ones((4, 2), np.float32), "label": np.ones(4, np.float32)})
