from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data.folder import load_folder
from resnet_jax.data.pipeline import EvalBatches, TrainBatches
from resnet_jax.data.records import ArrayRecords, Subset
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import DataError, UsageError


def numbered(count: int, labels=None) -> ArrayRecords:
    """Image i is filled with i."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3))
    return ArrayRecords(images, np.arange(count) % 7 if labels is None else labels)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def check_content(batch, records):
    """Everything in a batch belongs to the example that its index names."""
    dtypes = {"image": np.uint8, "label": np.int32, "mask": np.bool_, "index": np.int32, "epoch": np.int32}
    assert {key: batch[key].dtype for key in batch} == dtypes
    for row in np.flatnonzero(batch["mask"]):
        assert (batch["image"][row] == batch["index"][row]).all()
        assert batch["label"][row] == records.labels[batch["index"][row]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**64 - 1))
def test_an_epoch_visits_each_example_at_most_once_in_a_new_order(count, batch_size, seed):
    if batch_size > count:
        count, batch_size = batch_size, count
    records = numbered(count)
    batches = TrainBatches(records, batch_size, seed=seed)
    assert batches.steps_per_epoch == count // batch_size
    orders = []
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        parts = [batches.batch(step) for step in steps]
        for part in parts:
            check_content(part, records)
            assert part["mask"].all()
            assert (part["epoch"] == epoch).all()
            assert len(part["index"]) == batch_size
        orders.append(np.concatenate([part["index"] for part in parts]).tolist())
        assert len(set(orders[-1])) == batches.steps_per_epoch * batch_size
    if batches.steps_per_epoch * batch_size > 20:
        assert orders[0] != orders[1]


def test_a_batch_is_a_function_of_seed_and_step():
    first, again = (TrainBatches(numbered(50), 8, seed=3) for _ in range(2))
    expected = {step: first.batch(step) for step in (0, 5, 6, 40)}
    for step in (40, 0, 6, 5):  # another order of asking, across epochs
        assert_equal(again.batch(step), expected[step])
    assert (TrainBatches(numbered(50), 8, seed=4).batch(0)["index"] != expected[0]["index"]).any()


def test_order_and_stored_pixels_make_the_batches():
    """Of a part of the records too, whose pixels lie apart."""
    records = Subset(numbered(50), np.arange(0, 50, 2))
    batches = TrainBatches(records, 8, seed=3)
    resident = batches.resident()
    images, labels = resident["image"], resident["label"]
    assert images.nbytes + labels.nbytes == batches.stored_bytes
    for step in (0, 4):
        index, epoch = batches.order(step)
        batch = batches.batch(step)
        np.testing.assert_array_equal(images[index], batch["image"])
        np.testing.assert_array_equal(labels[index], batch["label"])
        assert (batch["epoch"] == epoch).all()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 2, 3, 6]), st.integers(0, 9))
def test_the_parts_of_all_processes_are_the_batch_of_one(processes, step):
    records = numbered(40)
    whole = TrainBatches(records, 12, seed=0).batch(step)
    parts = [TrainBatches(records, 12, seed=0, shard=(r, processes)).batch(step) for r in range(processes)]
    assert_equal({key: np.concatenate([part[key] for part in parts]) for key in whole}, whole)
    if step < 4:
        whole = EvalBatches(records, 12).batch(step)
        parts = [EvalBatches(records, 12, shard=(r, processes)).batch(step) for r in range(processes)]
        assert_equal({key: np.concatenate([part[key] for part in parts]) for key in whole}, whole)


def test_random_crops_do_not_depend_on_batch_or_process():
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 12, 3), np.uint8)
    records = ArrayRecords(images, np.arange(24))

    def seen(batch_size, epoch, shard=(0, 1), seed=0):
        batches = TrainBatches(records, batch_size, seed=seed, geometry=Geometry(8, "random_resized"), shard=shard)
        steps = batches.steps_per_epoch
        epoch_batches = [batches.batch(epoch * steps + s) for s in range(steps)]
        return {int(i): image for b in epoch_batches for i, image in zip(b["index"], b["image"], strict=True)}

    reference = seen(24, epoch=1)
    for other in (seen(4, epoch=1), seen(8, epoch=1, shard=(1, 2))):
        for index, image in other.items():
            np.testing.assert_array_equal(image, reference[index])
    for other in (seen(24, epoch=0), seen(24, epoch=1, seed=1)):
        assert sum((other[i] != reference[i]).any() for i in reference) > 20


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_iterate_gives_the_batches_in_order_and_resumes_at_any_step(threads):
    batches = TrainBatches(numbered(20), 6, seed=1)
    for start, stop in ((0, 9), (4, 9), (7, 7)):
        found = list(batches.iterate(start, stop, threads=threads, prefetch=2))
        assert len(found) == stop - start
        for step, batch in zip(range(start, stop), found, strict=True):
            assert_equal(batch, batches.batch(step))


def test_iterate_works_ahead_but_not_far(monkeypatch):
    batches = TrainBatches(numbered(20), 5, seed=0)
    made = []
    original = batches.batch
    monkeypatch.setattr(batches, "batch", lambda step: made.append(step) or original(step))
    iterator = batches.iterate(0, 1000, threads=2, prefetch=3)
    list(itertools.islice(iterator, 2))
    iterator.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert 2 <= len(made) <= 12


@pytest.mark.parametrize("threads", [0, 2])
def test_an_unreadable_image_surfaces_as_it_is(make_folder, threads):
    root = make_folder({"a": 6, "b": 6})
    records = load_folder(str(root)).splits["all"]
    (root / "b" / "003.png").write_bytes(b"spoilt")
    batches = TrainBatches(records, 4, seed=0)
    with pytest.raises(DataError, match=r"b/003\.png: this is text and no image .* remove it$"):
        list(batches.iterate(0, 3, threads=threads))
    with pytest.raises(DataError, match=r"b/003\.png"):
        list(EvalBatches(records, 4).iterate(threads=threads))


def test_threads_end_even_while_the_error_is_looked_at(make_folder):
    """A traceback keeps the iterator alive (a debugger, a notebook): its threads must not live on with it."""
    root = make_folder({"a": 3, "b": 3})
    records = load_folder(str(root)).splits["all"]
    (root / "a" / "002.png").write_bytes(b"spoilt")
    others = set(threading.enumerate())
    with pytest.raises(DataError) as error:
        list(EvalBatches(records, 2).iterate())
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - others and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - others
    assert error.value.__traceback__ is not None


def test_folders_and_subsets_of_them(make_folder):
    records = load_folder(str(make_folder({"a": 5, "b": 6}))).splits["all"]
    part = Subset(records, np.array([9, 2, 4, 7]))
    for batch in TrainBatches(part, 3, seed=0).iterate(0, 3):
        for row, index in enumerate(batch["index"]):
            np.testing.assert_array_equal(batch["image"][row], make_folder.pixels[part.describe(int(index))])
            assert batch["label"][row] == part.labels[index]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50))
def test_evaluation_sees_everything_once_in_order(count, batch_size):
    records = numbered(count)
    batches = EvalBatches(records, batch_size)
    found = list(batches.iterate(threads=0))
    assert len(found) == len(batches)
    for batch in found:
        check_content(batch, records)
        assert batch["image"].shape == (batch_size, 4, 4, 3)
        padding = ~batch["mask"]
        assert (batch["index"][padding] == -1).all()
        assert not batch["image"][padding].any()
        assert not batch["label"][padding].any()
    seen = np.concatenate([batch["index"][batch["mask"]] for batch in found])
    assert seen.tolist() == list(range(count))


def test_evaluation_can_be_repeated_and_uses_the_evaluation_geometry():
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 12, 3), np.uint8)
    geometry = Geometry(8, "random_resized")
    batches = EvalBatches(ArrayRecords(images, np.arange(5)), 3, geometry)
    for first, second in zip(batches, batches, strict=True):
        assert_equal(first, second)
    np.testing.assert_array_equal(batches.batch(1)["image"][1], geometry.eval_image(images[4]))


def test_float_labels_pass_for_regression():
    labels = np.linspace(0, 1, 20).reshape(10, 2)
    records = ArrayRecords(np.zeros((10, 4, 4), np.uint8), labels)
    batch = TrainBatches(records, 4, seed=0).batch(0)
    np.testing.assert_array_equal(batch["label"], labels[batch["index"]].astype(np.float32))
    assert EvalBatches(records, 4).batch(2)["label"].shape == (4, 2)


@pytest.mark.parametrize(
    "make", [lambda **k: TrainBatches(numbered(10), seed=0, **k), lambda **k: EvalBatches(numbered(10), **k)]
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch size 0 must be a positive multiple of the 1 processes"),
        ({"batch_size": 5, "shard": (0, 2)}, "batch size 5 must be a positive multiple of the 2 processes"),
        ({"batch_size": 4, "shard": (2, 2)}, r"shard \(2, 2\): the rank must be in 0..1"),
        ({"batch_size": 4, "shard": (-1, 2)}, "the rank must be in 0..1"),
    ],
)
def test_bad_sizes_and_shards(make, arguments, message):
    with pytest.raises(UsageError, match=message):
        make(**arguments)


def test_other_bad_requests():
    with pytest.raises(UsageError, match="batch size 11 is larger than the 10 training examples; use at most 10"):
        TrainBatches(numbered(10), 11, seed=0)
    with pytest.raises(UsageError, match="seed -1"):
        TrainBatches(numbered(10), 2, seed=-1)
    batches = TrainBatches(numbered(10), 2, seed=0)
    with pytest.raises(UsageError, match="step -1 must be at least 0"):
        batches.batch(-1)
    for step in (-1, 5):
        with pytest.raises(UsageError, match=rf"step {step} is not one of the 5 evaluation batches 0\.\.4"):
            EvalBatches(numbered(10), 2).batch(step)
    for threads, prefetch in ((-1, 1), (1, 0)):
        with pytest.raises(UsageError, match=f"threads {threads} must be at least 0 and prefetch {prefetch}"):
            batches.iterate(0, 1, threads=threads, prefetch=prefetch)


def test_labels_of_no_class_are_refused_where_the_number_of_classes_is_told():
    """Records made in Python belong to no data set that has checked them."""
    records = ArrayRecords(np.zeros((6, 4, 4), np.uint8), np.array([0, 1, 2, 3, 1, -1]), name="mine")
    message = r"label 3 at index 3 \(index 3 of mine\) is outside 0..2, the range of 3 classes; 2 such labels in all"
    with pytest.raises(DataError, match=message):
        TrainBatches(records, 2, seed=0, num_classes=3)
    with pytest.raises(DataError, match=message):
        EvalBatches(records, 2, num_classes=3)
    assert len(EvalBatches(records, 2)) == 3
