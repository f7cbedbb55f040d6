"""Average precision against pycocotools, on random images and on those made to be hard: ties, crowds, nothing there."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from resnet_jax.tasks.detection_ap import ImageBoxes, average_precisions

CLASSES = 3


def coco_precisions(found: ImageBoxes, true: ImageBoxes, classes: int) -> np.ndarray:
    """Return what COCOeval says, (10, K); NaN where it has -1."""
    images = [{"id": index + 1, "height": 1000, "width": 1000} for index in range(len(true.boxes))]
    categories = [{"id": label + 1, "name": str(label)} for label in range(classes)]
    annotations, results = [], []
    for image, rows in enumerate(true.boxes):
        for place, box in enumerate(rows):
            if true.labels[image, place] >= 0:
                crowd = 0 if true.crowd is None else int(true.crowd[image, place])
                annotations.append(
                    {**_entry(image, true.labels[image, place], box), "id": len(annotations) + 1, "iscrowd": crowd}
                )
    for image, rows in enumerate(found.boxes):
        for place, box in enumerate(rows):
            if found.labels[image, place] >= 0:
                score = float(found.scores[image, place])
                results.append({**_entry(image, found.labels[image, place], box), "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
        truth.createIndex()
        said = truth.loadRes(results) if results else COCO()
        if not results:
            said.dataset = {"images": images, "annotations": [], "categories": categories}
            said.createIndex()
        evaluation = COCOeval(truth, said, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # thresholds, recalls, classes, all areas, 100 detections
    means = precision.mean(axis=1)
    return np.where(means < 0, np.nan, means)


def _entry(image: int, label: int, box: np.ndarray) -> dict:
    top, left, bottom, right = box.astype(float).tolist()
    sides = [right - left, bottom - top]
    return {
        "image_id": image + 1,
        "category_id": int(label) + 1,
        "bbox": [left, top, *sides],
        "area": sides[0] * sides[1],
    }


def random_case(seed: int, images: int = 12, detections: int = 14, boxes: int = 6, steps: int = 0):
    """Return detections near true boxes, some wrong, some of another class; with ``steps`` there are ties."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 80, (images, boxes, 2))
    true = np.concatenate([corner, corner + rng.uniform(4, 40, (images, boxes, 2))], axis=-1)
    labels = rng.integers(-1, CLASSES, (images, boxes))
    of = rng.integers(0, boxes, (images, detections))
    near = np.take_along_axis(true, of[..., None], axis=1) + rng.normal(0, 3, (images, detections, 4))
    near[..., 2:] = np.maximum(near[..., 2:], near[..., :2] + 1)
    said = np.where(
        rng.random(of.shape) < 0.8, np.take_along_axis(labels, of, axis=1), rng.integers(-1, CLASSES, of.shape)
    )
    scores = rng.random(of.shape)
    if steps:
        true, near, scores = np.round(true / 4) * 4, np.round(near / 4) * 4, np.round(scores * steps) / steps
        near[..., 2:] = np.maximum(near[..., 2:], near[..., :2] + 4)
    crowd = rng.random(labels.shape) < (0.25 if seed % 2 else 0.0)
    as_float = (each.astype(np.float32) for each in (near, true))
    near, true = as_float
    return ImageBoxes(near, said, scores=scores), ImageBoxes(true, labels, crowd=crowd)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed, steps):
    found, true = random_case(seed, steps=steps)
    expected = coco_precisions(found, true, CLASSES)
    assert np.nanmax(expected) > 0.1
    np.testing.assert_allclose(average_precisions(found, true, CLASSES), expected, atol=1e-9)


@pytest.mark.parametrize(
    "change",
    ["no_detections", "no_truth", "all_crowds", "equal_boxes", "one_score", "over_100"],
)
def test_equals_pycocotools_where_it_is_hard(change):
    found, true = random_case(5, images=4)
    labels, scores = found.labels.copy(), found.scores.copy()
    if change == "no_detections":
        found = ImageBoxes(found.boxes, np.full_like(labels, -1), scores=scores)
    elif change == "no_truth":
        true = ImageBoxes(true.boxes, np.where(true.labels == 1, -1, true.labels), crowd=true.crowd)
        true.labels[:2] = -1
    elif change == "all_crowds":
        true = ImageBoxes(true.boxes, true.labels, crowd=np.ones_like(true.crowd))
    elif change == "equal_boxes":  # every overlap is a tie
        true = ImageBoxes(np.broadcast_to(true.boxes[:, :1], true.boxes.shape), true.labels, crowd=true.crowd)
        found = ImageBoxes(np.broadcast_to(true.boxes[:, :1], found.boxes.shape), labels, scores=scores)
    elif change == "one_score":
        found = ImageBoxes(found.boxes, labels, scores=np.full_like(scores, 0.5))
    else:
        found, true = random_case(6, images=3, detections=150, boxes=5)
        found = ImageBoxes(found.boxes, np.zeros_like(found.labels), scores=found.scores)
    expected = coco_precisions(found, true, CLASSES)
    np.testing.assert_allclose(average_precisions(found, true, CLASSES), expected, atol=1e-9)


def test_difficult_boxes_count_nowhere_and_may_be_taken_twice():
    box = np.array([0.0, 0, 10, 10])
    true = ImageBoxes(np.stack([box, box + 50])[None], np.zeros((1, 2), int), difficult=np.array([[True, False]]))
    found = ImageBoxes(np.stack([box, box, box + 50])[None], np.zeros((1, 3), int), scores=np.array([[0.9, 0.8, 0.7]]))
    np.testing.assert_allclose(average_precisions(found, true, 1), 1.0, rtol=1e-12)


def test_images_are_taken_in_parts(monkeypatch):
    found, true = random_case(7)
    whole = average_precisions(found, true, CLASSES)
    monkeypatch.setattr("resnet_jax.tasks.detection_ap._CHUNK", 150)
    np.testing.assert_array_equal(average_precisions(found, true, CLASSES), whole)
