"""Suppression against the greedy loop."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings, strategies as st

from resnet_jax.ops.nms import best_boxes

PLACES, CLASSES, MOST = 12, 2, 10


def overlap(one, other):
    sides = [min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return shared / (areas[0] + areas[1] - shared)


def greedy(boxes, scores, score_threshold, iou_threshold):
    """Return (label, place) of what is kept, the best first."""
    pairs = [(place, label) for place in range(PLACES) for label in range(CLASSES)]
    pairs = sorted((pair for pair in pairs if scores[pair] > score_threshold), key=lambda pair: -scores[pair])
    kept = []
    while pairs:
        best, *pairs = pairs
        kept.append(best)
        pairs = [p for p in pairs if p[1] != best[1] or overlap(boxes[p[0]], boxes[best[0]]) <= iou_threshold]
    return kept


@functools.cache
def compiled(iou_threshold):
    options = {"score_threshold": 0.2, "iou_threshold": iou_threshold, "candidates": 100, "most": MOST}
    return jax.jit(functools.partial(best_boxes, **options))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.25, 0.5]), st.booleans())
def test_equals_the_greedy_loop(seed, iou_threshold, ties):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 6, (PLACES, 2))
    boxes = np.concatenate([corner, corner + rng.integers(2, 7, (PLACES, 2))], axis=1).astype(np.float32)
    scores = rng.random((PLACES, CLASSES)).astype(np.float32)
    scores = np.round(scores * 4) / 4 if ties else scores
    expected = greedy(boxes, scores, 0.2, iou_threshold)[:MOST]
    found, values, labels = (np.asarray(each) for each in compiled(iou_threshold)(boxes, scores))
    assert labels[: len(expected)].tolist() == [label for _, label in expected]
    assert (labels[len(expected) :] == -1).all()
    np.testing.assert_array_equal(found[: len(expected)], boxes[[place for place, _ in expected]])
    np.testing.assert_array_equal(values[: len(expected)], [scores[pair] for pair in expected])


def test_nothing_found_is_padding():
    found, values, labels = compiled(0.5)(jnp.zeros((PLACES, 4)), jnp.zeros((PLACES, CLASSES)))
    assert set(np.asarray(labels)) == {-1}
    assert not np.asarray(found).any()
    assert not np.asarray(values).any()


def test_of_few_places_the_rest_is_padding():
    options = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates": 400, "most": 5}
    found = best_boxes(jnp.array([[0.0, 0, 2, 2]]), jnp.array([[0.9]]), **options)
    assert [each.shape for each in found] == [(5, 4), (5,), (5,)]
    assert found[2].tolist() == [0, -1, -1, -1, -1]
