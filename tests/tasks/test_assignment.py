"""Which box a place is to find, against loops in NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.tasks.assignment import by_overlap, by_place, centreness


def cells_of(side, strides):
    rows = [(r, c, r + s, c + s) for s in strides for r in range(0, side, s) for c in range(0, side, s)]
    return np.array(rows, np.float32)


def some_boxes(seed, count=5, side=64):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, side - 4, (count, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(3, 50, (count, 2)), side)], axis=1)
    return boxes.astype(np.float32), rng.random(count) < 0.8


@pytest.mark.parametrize("seed", range(3))
def test_by_place_is_the_rule_of_fcos(seed):
    cells, (boxes, there) = cells_of(64, (4, 8, 16)), some_boxes(seed)
    found = by_place(jnp.asarray(cells), jnp.asarray(boxes), jnp.asarray(there))
    positives = 0
    for number, (top, left, bottom, right) in enumerate(cells):
        row, column, stride = (top + bottom) / 2, (left + right) / 2, bottom - top
        low, high = {4: (0, 32), 8: (32, 64), 16: (64, np.inf)}[int(stride)]
        fitting = []
        for index, (t, w, b, e) in enumerate(boxes):
            sides = (row - t, column - w, b - row, e - column)
            near = max(abs(row - (t + b) / 2), abs(column - (w + e) / 2)) < 1.5 * stride
            if there[index] and min(sides) > 0 and near and low < max(sides) <= high:
                fitting.append(((b - t) * (e - w), index))
        assert bool(found.positive[number]) == bool(fitting)
        positives += bool(fitting)
        if fitting:
            assert int(found.box[number]) == min(fitting)[1]
    assert positives > 5
    assert not found.ignored.any()


@pytest.mark.parametrize("seed", range(3))
def test_by_overlap_is_the_rule_of_retinanet(seed):
    rng = np.random.default_rng(seed)
    boxes, there = some_boxes(seed)
    there[0] = True
    anchors = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), cells_of(64, (16,))]).astype(np.float32)
    found = by_overlap(jnp.asarray(anchors), jnp.asarray(boxes), jnp.asarray(there))
    overlaps = np.full((len(anchors), len(boxes)), -1.0)
    for i, one in enumerate(anchors):
        for j, other in enumerate(boxes):
            shared = np.prod(np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0))
            areas = [np.prod(b[2:] - b[:2]) for b in (one, other)]
            if there[j]:
                overlaps[i, j] = shared / (sum(areas) - shared)
    for i in range(len(anchors)):
        best = overlaps[i].max()
        rescued = any(overlaps[i, j] > 0 and overlaps[i, j] >= overlaps[:, j].max() - 1e-6 for j in range(len(boxes)))
        assert bool(found.positive[i]) == (best >= 0.5 or rescued)
        assert bool(found.ignored[i]) == (0.4 <= best < 0.5 and not rescued)
        if best > 0:
            assert int(found.box[i]) == overlaps[i].argmax()


@pytest.mark.parametrize("rule", [by_place, by_overlap])
def test_without_boxes_all_is_background(rule):
    found = rule(jnp.asarray(cells_of(16, (4,))), jnp.zeros((3, 4)), jnp.zeros(3, bool))
    assert not found.positive.any()
    assert not found.ignored.any()


def test_every_box_has_an_anchor():
    far = jnp.array([[0.0, 0, 64, 64]])
    found = by_overlap(jnp.asarray(cells_of(64, (16,))), far, jnp.array([True]))
    assert found.positive.any()


def test_centreness_is_one_in_the_middle_and_none_outside():
    cells = jnp.array([[2.0, 2, 4, 4], [0, 0, 2, 2], [20, 20, 22, 22]])
    found = centreness(cells, jnp.broadcast_to(jnp.array([0.0, 0, 6, 6]), (3, 4)))
    np.testing.assert_allclose(found, [1.0, 0.2, 0.0], atol=1e-6)
