"""The task of boxes on outputs made by hand: loss against its formula, images without boxes, crowds, what is found."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models.heads.retinanet import anchors_of
from resnet_jax.ops.boxes import encode, generalized_iou
from resnet_jax.tasks import TaskConfig, TaskFacts, make_task
from resnet_jax.tasks.assignment import by_overlap, by_place
from resnet_jax.tasks.config import DetectionConfig
from resnet_jax.tasks.detection import Detection, decoded

SIDE, CLASSES, MOST = 32, 3, 4
CELLS = np.array(
    [(r, c, r + s, c + s) for s in (4, 8) for r in range(0, SIDE, s) for c in range(0, SIDE, s)], np.float32
)
ANCHORS = anchors_of([(8, 8), (4, 4)], (4, 8))
TRUE = np.array([[2, 3, 12, 14], [18, 16, 30, 31], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
BATCH = {
    "boxes": np.stack([TRUE, np.zeros_like(TRUE)]),
    "box_label": np.array([[1, 2, -1, -1], [-1, -1, -1, -1]], np.int32),
}


def outputs_of(kind, scale=1.0, seed=0):
    places = CELLS if kind == "fcos" else ANCHORS
    draw = functools.partial(np.random.default_rng(seed).normal, 0.0, scale)
    found = {"class": draw(size=(2, len(places), CLASSES)), "box": draw(size=(2, len(places), 4)) * 0.3}
    if kind == "fcos":
        found["centre"] = draw(size=(2, len(places)))
    found |= {"anchors": np.stack([places] * 2), "size": np.full((2, 2), SIDE)}
    return {name: jnp.asarray(each, jnp.float32) for name, each in found.items()}


def perfect(kind):
    """Outputs that say what is true at every place that is to find a box, and nothing elsewhere."""
    outputs = outputs_of(kind)
    rule = by_place if kind == "fcos" else by_overlap
    found = rule(outputs["anchors"][0], jnp.asarray(TRUE), jnp.asarray(BATCH["box_label"][0] >= 0))
    wanted = np.full((2, len(found.box), CLASSES), -12.0, np.float32)
    labels = BATCH["box_label"][0][np.asarray(found.box)]
    wanted[0, np.flatnonzero(found.positive), labels[np.asarray(found.positive)]] = 12.0
    own, places = jnp.asarray(TRUE)[found.box], outputs["anchors"][0]
    if kind == "fcos":
        middle, stride = (places[:, :2] + places[:, 2:]) / 2, places[:, 2:3] - places[:, :1]
        reach = jnp.concatenate([middle - own[:, :2], own[:, 2:] - middle], axis=1) / stride
        box = jnp.log(jnp.maximum(reach, 1e-2))
        outputs["centre"] = jnp.full((2, len(places)), 12.0)
    else:
        box = encode(own, places)
    return {**outputs, "class": jnp.asarray(wanted), "box": jnp.stack([box] * 2)}


def test_the_loss_is_its_formula():
    outputs, task = outputs_of("fcos"), Detection(CLASSES)
    parts = {name: np.asarray(each)[0] for name, each in jax.jit(task.train_sums)(outputs, BATCH).items()}
    found = by_place(outputs["anchors"][0], jnp.asarray(TRUE), jnp.asarray(BATCH["box_label"][0] >= 0))
    positive, box = np.asarray(found.positive), np.asarray(found.box)
    p = 1 / (1 + np.exp(-np.asarray(outputs["class"][0], np.float64)))
    focal = 0.75 * p**2 * -np.log(1 - p)
    for place in np.flatnonzero(positive):
        label = BATCH["box_label"][0][box[place]]
        focal[place, label] = 0.25 * (1 - p[place, label]) ** 2 * -np.log(p[place, label])
    np.testing.assert_allclose(parts["class_loss"], focal.sum() / positive.sum(), rtol=1e-5)
    overlaps = np.asarray(generalized_iou(decoded(outputs)[0], jnp.asarray(TRUE)[found.box]))
    losses, weights = [], []
    for place in np.flatnonzero(positive):
        (top, left, bottom, right), own = CELLS[place], TRUE[box[place]]
        row, column = (top + bottom) / 2, (left + right) / 2
        sides = sorted([column - own[1], own[3] - column]), sorted([row - own[0], own[2] - row])
        weights.append(np.sqrt(sides[0][0] / sides[0][1] * sides[1][0] / sides[1][1]))
        losses.append(1 - overlaps[place])
    np.testing.assert_allclose(parts["box_loss"], np.average(losses, weights=weights), rtol=1e-4)
    z = np.asarray(outputs["centre"][0], np.float64)[positive]
    entropy = np.logaddexp(0, z) - np.array(weights) * z
    np.testing.assert_allclose(parts["centre_loss"], entropy.mean(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_gradients_are_finite_with_and_without_boxes(kind):
    task = Detection(CLASSES)

    @jax.jit
    def losses_and_gradients(moved, rest):
        losses, pull = jax.vjp(lambda moved: task.loss({**rest, **moved}, BATCH), moved)
        return losses, [pull(jnp.zeros(2).at[row].set(1.0))[0] for row in range(2)]

    for scale in (1.0, 60.0):
        outputs = outputs_of(kind, scale)
        moved = {name: outputs.pop(name) for name in ("class", "box", "centre") if name in outputs}
        losses, gradients = losses_and_gradients(moved, outputs)
        assert losses.shape == (2,)
        assert all(np.isfinite(each).all() for each in jax.tree.leaves((losses, gradients)))
        assert np.asarray(gradients[0]["box"][0]).any()
        assert not np.asarray(gradients[1]["box"]).any(), "an image without boxes says nothing of boxes"
        assert np.asarray(gradients[1]["class"][1]).any()


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
@pytest.mark.slow
def test_what_is_true_everywhere_is_found_and_costs_little(kind):
    task, outputs = Detection(CLASSES, options=DetectionConfig(candidates=40, max_detections=6)), perfect(kind)
    both = jax.jit(lambda outputs: (task.train_sums(outputs, BATCH), task.eval_rows(outputs, BATCH)))
    parts, rows = jax.tree.map(np.asarray, both(outputs))
    assert parts["class_loss"][0] + parts["box_loss"][0] < 0.05
    metrics = task.eval_metrics({}, rows, 2)
    assert metrics == pytest.approx({"ap50": 1.0, "ap75": 1.0, "map": 1.0})
    details = task.eval_details({}, rows, 2)
    assert np.isnan(details["ap50"][0])
    assert task.eval_notes(details) == ("1 of 3 classes (0) have no boxes: means leave them out",)
    said = task.predicted_fields(jax.tree.map(np.asarray, outputs))
    assert sorted(said["box_label"][0].tolist())[-2:] == [1, 2]
    assert said["caption"].tolist() == ["2 boxes, score ≥ 0.5", "0 boxes, score ≥ 0.5"]
    assert sorted(task.predict(outputs, 5)[0])[0] == (1, pytest.approx(1.0, abs=1e-3))


@pytest.mark.slow
def test_places_in_a_crowd_are_no_background():
    task, outputs = Detection(CLASSES), outputs_of("fcos")
    crowd = {**BATCH, "crowd": np.array([[False, True, False, False], [False] * 4])}
    alone = {**BATCH, "box_label": np.array([[1, -1, -1, -1], [-1] * 4], np.int32)}
    with_crowd, without = (float(task.train_sums(outputs, batch)["class_loss"][0]) for batch in (crowd, alone))
    assert with_crowd < without


def test_the_configuration_is_read_and_refused():
    facts = TaskFacts("boxes", ("a", "b"))
    task = make_task(TaskConfig(detection=DetectionConfig(headline="map"), threshold=(0.3,)), facts)
    assert (task.kind, task.headline, task.num_outputs) == ("detection", "map", 2)
    assert isinstance(task, Detection)
    assert task.threshold == 0.3
    with pytest.raises(UsageError, match=r"task.detection.nms_iou 0.3 is not used by task.kind classification"):
        make_task(TaskConfig(detection=DetectionConfig(nms_iou=0.3)), TaskFacts(names=("a", "b")))
    with pytest.raises(UsageError, match="box_loss smooth_l1 is for head retinanet"):
        Detection(CLASSES, options=DetectionConfig(box_loss="smooth_l1")).loss(outputs_of("fcos"), BATCH)
    with pytest.raises(UsageError, match="views do not support detection"):
        task.mean_outputs({})


def test_targets_are_checked():
    task = Detection(CLASSES)
    task.check(BATCH)
    labels = BATCH["box_label"].copy()
    labels[0, 1] = 3
    with pytest.raises(UsageError, match="box 1 of example 0 of the batch: 3 is not 0 to 2, or -1 for none"):
        task.check({**BATCH, "box_label": labels})
    task.check({**BATCH, "box_label": labels, "mask": np.array([False, True])})
    boxes = BATCH["boxes"].copy()
    boxes[0, 0] = [5, 5, 2, 9]
    with pytest.raises(UsageError, match="is not top, left, bottom, right"):
        task.check({**BATCH, "boxes": boxes})
