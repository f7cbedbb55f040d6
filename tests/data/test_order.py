"""Which examples are in which batch: passes, balanced classes, repeats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data.order import Order, Sampling
from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import ArrayRecords
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import DataError, UsageError

LABELS = st.lists(st.integers(0, 3), min_size=8, max_size=40).map(np.array).filter(lambda y: len(np.unique(y)) > 1)


def drawn(order: Order, steps: int) -> tuple[np.ndarray, np.ndarray]:
    positions, passes = zip(*map(order.at, range(steps)), strict=True)
    return np.concatenate(positions), np.concatenate(passes)


def test_the_plain_order_is_a_permutation_each_epoch_as_it_always_was():
    order = Order(np.zeros(10, np.int32), 4, seed=3)
    for step in range(7):
        epoch, place = divmod(step, 2)
        positions, passes = order.at(step)
        assert positions.tolist() == permutation(10, 3, SHUFFLE, epoch)[4 * place : 4 * place + 4].tolist()
        assert passes.tolist() == [epoch] * 4


@settings(deadline=None, max_examples=20)
@given(LABELS, st.integers(1, 8), st.integers(0, 2**32), st.data())
def test_balanced_rounds_hold_every_class_once_and_no_example_again_before_all_of_its_class(labels, size, seed, data):
    size = min(size, len(labels))
    order = Order(labels, size, seed=seed, sampling=Sampling("classes"))
    classes = np.unique(labels)
    steps = 6 * len(labels) // size + 1
    positions, passes = drawn(order, steps)
    whole = len(positions) // len(classes) * len(classes)
    rounds = labels[positions[:whole]].reshape(-1, len(classes))
    assert (np.sort(rounds, axis=1) == classes).all()
    for c in classes:
        own, count = positions[labels[positions] == c], int((labels == c).sum())
        times = passes[labels[positions] == c]
        assert (times == np.arange(len(own)) // count).all()
        for start in range(0, len(own) - count + 1, count):
            assert sorted(own[start : start + count]) == np.flatnonzero(labels == c).tolist()
    assert len(set(zip(positions.tolist(), passes.tolist(), strict=True))) == len(positions)  # each draw its address
    step = data.draw(st.integers(0, steps - 1))
    again = Order(labels, size, seed=seed, sampling=Sampling("classes")).at(step)  # in any order, by anyone
    assert (again[0] == order.at(step)[0]).all()
    assert order.steps_per_epoch == len(labels) // size


@settings(deadline=None, max_examples=20)
@given(st.integers(8, 30), st.integers(2, 4), st.integers(2, 3), st.sampled_from(["none", "classes"]))
def test_repeats_are_in_one_batch_with_addresses_of_their_own(count, images, repeats, balance):
    size = min(images, count // repeats) * repeats
    if size // repeats < 2:
        return
    labels = np.arange(count) % 2
    order = Order(labels, size, seed=1, sampling=Sampling(balance, repeats))
    once = Order(labels, size // repeats, seed=1, sampling=Sampling(balance))
    for step in range(9):
        positions, passes = order.at(step)
        first, before = once.at(step)
        assert positions.tolist() == first.tolist() * repeats
        assert passes.reshape(repeats, -1).tolist() == [(before * repeats + r).tolist() for r in range(repeats)]
        assert (positions[0::2][: size // 2] != positions[1::2]).all() or size // repeats % 2  # no pair of one image
    positions, passes = drawn(order, 20)
    assert len(set(zip(positions.tolist(), passes.tolist(), strict=True))) == len(positions)
    assert order.steps_per_epoch == count // size


def test_a_repeated_image_is_cropped_anew_and_processes_share_the_batch():
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    records = ArrayRecords(images, np.arange(20, dtype=np.int32) % 2)

    def batches(shard=(0, 1)):
        geometry = Geometry(8, "random_resized")
        return TrainBatches(records, 8, seed=0, geometry=geometry, shard=shard, sampling=Sampling("classes", 2))

    batch = batches().batch(3)
    assert batch["index"][:4].tolist() == batch["index"][4:].tolist()
    assert (batch["epoch"][4:] == batch["epoch"][:4] + 1).all()
    assert all((batch["image"][row] != batch["image"][row + 4]).any() for row in range(4))
    parts = [batches((rank, 2)).batch(3) for rank in range(2)]
    for name, values in batch.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


def test_what_cannot_be_drawn_so_is_refused():
    labels = np.arange(12) % 3
    for size, repeats in ((8, 3), (3, 3), (4, 4)):
        with pytest.raises(UsageError, match=rf"repeats {repeats}: a batch of {size} does not hold two images or more"):
            Order(labels, size, seed=0, sampling=Sampling(repeats=repeats))
    for none in (np.zeros(12, np.int32), np.zeros((12, 3), np.float32), np.linspace(0, 1, 12)):
        with pytest.raises(DataError, match="balance classes: the training examples have no classes"):
            Order(none, 4, seed=0, sampling=Sampling("classes"))
    with pytest.raises(UsageError, match=r"data\.repeats must be 1 or more, got 0"):
        Sampling(repeats=0)
    with pytest.raises(UsageError, match=r"unknown data\.balance 'class'; did you mean 'classes'"):
        Sampling("class")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="at least 0"):
        Order(labels, 4, seed=0).at(-1)
