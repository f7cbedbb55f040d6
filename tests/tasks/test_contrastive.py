"""The contrastive task: the losses against their formulae, retrieval against a sort in plain NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.contrastive import Contrastive
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.registry import make_task
from resnet_jax.tasks.retrieval import prototypes, recalls, zero_shot


def pairs(count=12, width=5, classes=3):
    rng = np.random.default_rng(0)
    image, other = rng.normal(size=(2, count, width))
    image, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, other))
    return image, other, rng.integers(0, classes, count).astype(np.int32)


def outputs(image, other, scale=7.0):
    found = {"image": image, "other": other, "scale": np.full(len(image), scale)}
    return {name: jnp.asarray(x, jnp.float32) for name, x in found.items()}


SUMS = {"scale": np.array(6 * 20.0)}


def log_softmax(row):
    return row - np.log(np.exp(row).sum())


@pytest.mark.parametrize("positives", ["pair", "class"])
def test_the_loss_is_the_formula(positives):
    image, other, labels = pairs()
    scores = 7.0 * image @ other.T
    expected = []
    for i in range(len(labels)):
        found = [i] if positives == "pair" else [j for j in range(len(labels)) if labels[j] == labels[i]]
        terms = [log_softmax(scores[i])[j] + log_softmax(scores[:, i])[j] for j in found]
        expected.append(-np.mean(terms) / 2)
    batch = {"label": jnp.asarray(labels)}
    loss = Contrastive(5, 3, positives).loss(outputs(image, other), batch)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)


def test_the_mean_loss_of_pairs_is_clips():
    """Radford et al. 2021, figure 3: the mean of two cross-entropies whose targets are the diagonal."""
    image, other, labels = pairs()
    scores, rows = 7.0 * image @ other.T, np.arange(12)
    there = -np.mean([log_softmax(scores[i])[i] for i in rows])
    back = -np.mean([log_softmax(scores[:, i])[i] for i in rows])
    loss = Contrastive(5, 3, "pair").loss(outputs(image, other), {"label": jnp.asarray(labels)})
    assert float(loss.mean()) == pytest.approx((there + back) / 2, rel=1e-5)


@pytest.mark.parametrize("positives", ["pair", "class"])
def test_padding_is_nobodys_negative(positives):
    image, other, labels = pairs()
    task, kept = Contrastive(5, 3, positives), 8
    alone = task.loss(outputs(image[:kept], other[:kept]), {"label": jnp.asarray(labels[:kept])})
    mask = jnp.arange(12) < kept
    padded = task.loss(outputs(image, other), {"label": jnp.asarray(labels), "mask": mask})
    np.testing.assert_allclose(padded[:kept], alone, rtol=1e-6)
    assert np.isfinite(padded).all()


def test_false_negatives_keep_the_loss_of_pairs_up():
    """Embeddings that are the class alone: the loss by pair is the logarithm of how many have it."""
    labels = np.repeat(np.arange(3), 4).astype(np.int32)
    embedded = np.eye(3)[labels]
    batch = {"label": jnp.asarray(labels)}
    by_pair = Contrastive(3, 3, "pair").loss(outputs(embedded, embedded, 50.0), batch)
    np.testing.assert_allclose(by_pair, np.log(4), rtol=1e-5)


def test_recall_is_that_of_a_sort():
    image, other, labels = pairs(50, 4, 5)
    found = recalls(image, other, labels)
    for i in range(50):
        order = sorted(range(50), key=lambda j: -float(image[i] @ other[j]))
        for k in (1, 5, 10):
            assert found["pair"][k][i] == (i in order[:k])
            assert found["class"][k][i] == any(labels[j] == labels[i] for j in order[:k])


def test_embeddings_that_are_all_the_same_find_no_pair():
    same = np.ones((30, 2)) / np.sqrt(2)
    assert not any(each.any() for each in recalls(same, same, np.zeros(30, int))["pair"].values())


def test_each_side_is_classified_by_the_means_of_the_other():
    image, other, labels = pairs(40, 6, 4)
    means = np.stack([other[labels == k].mean(axis=0) for k in range(4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    logits = 9.0 * image @ means.T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = zero_shot(image, other, labels, 4, 9.0)
    np.testing.assert_allclose(found["image"], expected)
    np.testing.assert_allclose(found["both"], (found["image"] + found["other"]) / 2)
    assert not prototypes(image, labels, 6)[4:].any()  # classes without examples


def test_metrics_of_a_perfect_network():
    labels = np.arange(6) % 3
    embedded = np.eye(3)[labels]
    task, rows = Contrastive(3, 3), {"image": embedded, "other": embedded, "label": labels}
    metrics = task.eval_metrics(SUMS, rows, 6)
    assert metrics["class_recall1"] == metrics["zero_shot_both"] == 1.0
    assert metrics["temperature"] == pytest.approx(1 / 20)
    assert metrics["image_to_other_pair_recall1"] == 0.0  # two are equally near
    assert set(task.eval_details(SUMS, rows, 6)) == {"precision", "recall", "f1"}


def test_it_is_made_of_a_configuration():
    task = make_task(TaskConfig(kind="contrastive", embedding_width=9, positives="pair"), TaskFacts(names=("a", "b")))
    assert task == Contrastive(9, 2, "pair")
    with pytest.raises(UsageError, match=r"embedding_width 9 is not used by task.kind classification"):
        make_task(TaskConfig(embedding_width=9), TaskFacts(names=("a", "b")))
    with pytest.raises(UsageError, match="label 2 of example 1"):
        task.check({"label": np.array([0, 2])})
