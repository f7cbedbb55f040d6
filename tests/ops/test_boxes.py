"""Overlaps against loops, and gradients of boxes that have no area."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.ops.boxes import decode, encode, from_distances, generalized_iou, iou

RNG = np.random.default_rng(0)


def boxes(count):
    corner = RNG.uniform(0, 20, (count, 2))
    return np.concatenate([corner, corner + RNG.uniform(1, 15, (count, 2))], axis=1).astype(np.float32)


def overlap_by_counting(one, other, steps=40):
    """Count the points of a grid that lie in both boxes, in one of them, and in the smallest box around them."""
    low, high = np.minimum(one, other)[:2], np.maximum(one, other)[2:]
    sides = [np.linspace(low[axis], high[axis], steps * 10, endpoint=False) for axis in (0, 1)]
    row, column = np.meshgrid(*sides, indexing="ij")
    inside = [(row >= b[0]) & (row < b[2]) & (column >= b[1]) & (column < b[3]) for b in (one, other)]
    both, either = (inside[0] & inside[1]).mean(), (inside[0] | inside[1]).mean()
    return both / either, both / either - (1 - either)


def test_overlaps_are_shares_of_points():
    one, other = boxes(12), boxes(12)
    other[0] = one[0]
    found = np.asarray(iou(jnp.asarray(one), jnp.asarray(other)))
    general = np.asarray(generalized_iou(jnp.asarray(one), jnp.asarray(other)))
    for number in range(12):
        expected = overlap_by_counting(one[number], other[number])
        np.testing.assert_allclose((found[number], general[number]), expected, atol=0.02)
    assert found[0] == general[0] == 1.0


def test_pairs_broadcast():
    one, other = jnp.asarray(boxes(3)), jnp.asarray(boxes(5))
    pairs = iou(one[:, None], other[None])
    assert pairs.shape == (3, 5)
    np.testing.assert_allclose(pairs[2, 4], iou(one[2], other[4]), rtol=1e-6)


def test_gradients_are_finite_without_any_area():
    flat = jnp.array([[1.0, 1, 1, 1], [2, 2, 1, 1], [0, 0, 4, 4]])
    for function in (iou, generalized_iou):
        for other in (flat, jnp.zeros((3, 4))):
            gradient = jax.grad(lambda x, other=other, function=function: function(x, other).sum())(flat)
            assert np.isfinite(gradient).all()


def test_numbers_and_boxes_invert_each_other():
    anchors, wanted = jnp.asarray(boxes(20)), jnp.asarray(boxes(20))
    np.testing.assert_allclose(decode(encode(wanted, anchors), anchors), wanted, atol=1e-4)
    cells = jnp.array([[8.0, 16, 16, 24]])
    distances = jnp.array([[5.0, 3, 9, 20]])
    found = from_distances(jnp.log(distances / 8), cells)[0]
    np.testing.assert_allclose(found, [12 - 5, 20 - 3, 12 + 9, 20 + 20], rtol=1e-6)
