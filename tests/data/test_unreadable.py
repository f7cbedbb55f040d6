"""Examples that cannot be read: others take their place in training, they count nowhere in evaluation, all are told."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data.folder import load_folder
from resnet_jax.data.in_memory import materialize
from resnet_jax.data.order import Sampling
from resnet_jax.data.pipeline import EvalBatches, TrainBatches
from resnet_jax.data.records import ArrayRecords, Subset, in_memory
from resnet_jax.data.stats import channel_stats
from resnet_jax.data.transform import AS_STORED, Geometry
from resnet_jax.data.unreadable import Unreadable
from resnet_jax.data.verify import check_readable
from resnet_jax.errors import DataError


class Holes:
    """A source whose example i is filled with i, some of which cannot be read."""

    def __init__(self, count: int, lost: set[int]) -> None:
        self.labels, self.lost = np.arange(count, dtype=np.int32) % 3, lost
        self.spec = ArrayRecords(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, int)).spec
        self.encoded_bytes = count

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if index in self.lost:
            raise DataError(f"{self.describe(index)} is broken")
        return {"image": np.full((4, 4, 3), index, np.uint8), "label": self.labels[index]}

    def describe(self, index):
        return f"hole {index}"


def counter(records, share=1.0) -> Unreadable:
    return Unreadable("train", len(records), share)


sizes = st.integers(2, 40).flatmap(
    lambda count: st.tuples(
        st.just(count), st.sets(st.integers(0, count - 1), max_size=count - 1), st.integers(1, count)
    )
)


@settings(max_examples=25, deadline=None)
@given(sizes, st.integers(0, 30), st.sampled_from([Sampling(), Sampling(repeats=2)]))
def test_the_next_of_the_order_stands_in_and_memory_shards_and_resuming_change_nothing(given_sizes, step, sampling):
    count, lost, batch_size = given_sizes
    batch_size = max(batch_size // 4 * 4, 4)
    if batch_size > count:
        count = batch_size
    records = Holes(count, lost)
    lazy = TrainBatches(records, batch_size, seed=1, sampling=sampling, unreadable=counter(records))
    batch = lazy.batch(step)
    assert batch["mask"].all()
    assert not set(batch["index"].tolist()) & lost
    assert (batch["image"] == batch["index"][:, None, None, None]).all()
    np.testing.assert_array_equal(batch["label"], records.labels[batch["index"]])
    intended = TrainBatches(Holes(count, set()), batch_size, seed=1, sampling=sampling)
    rows = [intended.order(at) for at in range(step, step + 12 * intended.steps_per_epoch + 2)]
    positions, passes = (np.concatenate(part).tolist() for part in zip(*rows, strict=True))
    for row in range(batch_size):
        place = next(at for at in range(row, len(positions)) if positions[at] not in lost)
        assert (batch["index"][row], batch["epoch"][row]) == (positions[place], passes[place])

    again = TrainBatches(records, batch_size, seed=1, sampling=sampling, unreadable=counter(records)).batch(step)
    held = materialize(records, AS_STORED, training=True, unreadable=(found := counter(records)))
    assert in_memory(held)
    assert {entry.index for entry in found.entries} == lost
    stored = TrainBatches(held, batch_size, seed=1, sampling=sampling, unreadable=found)
    parts = [
        TrainBatches(records, batch_size, seed=1, sampling=sampling, shard=(r, 2), unreadable=counter(records))
        for r in range(2)
    ]
    halves = [part.batch(step) for part in parts]
    for other in (again, stored.batch(step), {name: np.concatenate([h[name] for h in halves]) for name in batch}):
        for name, values in batch.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)
    resident = stored.resident()
    np.testing.assert_array_equal(resident["image"][stored.order(step)[0]], batch["image"])


@settings(max_examples=40, deadline=None)
@given(
    sizes,
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.booleans(),
)
def test_evaluation_counts_every_readable_example_once_on_any_devices_and_processes(
    given_sizes, processes, devices, memory, twice
):
    """Batches are cut over processes and each part over devices; what is counted is every readable example, once."""
    count, lost, batch_size = given_sizes
    batch_size = -(-batch_size // (processes * devices)) * processes * devices
    records = Holes(count, lost)
    if twice:  # indices that are given twice are two examples
        records = Subset(records, np.concatenate([np.arange(count), np.arange(count)]))
        lost = lost | {count + index for index in lost}
    found = counter(records)
    if memory:
        records = materialize(records, AS_STORED, training=False, unreadable=found)
    parts = [EvalBatches(records, batch_size, shard=(r, processes), unreadable=found) for r in range(processes)]
    counted = []
    for batches in zip(*(part.iterate(threads=0) for part in parts), strict=True):
        for batch in batches:
            assert len(batch["mask"]) == batch_size // processes
            for rows in np.split(np.arange(len(batch["mask"])), devices):
                index = batch["index"][rows]
                counted += index[batch["mask"][rows]].tolist()
                assert (index[~batch["mask"][rows]] == -1).all()
                assert not batch["image"][rows][~batch["mask"][rows]].any()
    assert counted == [index for index in range(len(records)) if index not in lost]
    assert {entry.index for entry in found.entries} == lost


def test_too_many_stop_with_the_first_and_the_last():
    records = Holes(100, {3, 50, 70})
    message = r"3 of 100 train examples cannot be read, more than the 0.02 of them .*max_corrupt\); the first: hole 3 "
    with pytest.raises(DataError, match=message):
        check_readable(records, AS_STORED, unreadable=counter(records, 0.02), threads=1)
    assert check_readable(records, AS_STORED, unreadable=(found := counter(records, 0.03)))
    assert [entry.where for entry in found.entries] == ["hole 3", "hole 50", "hole 70"]
    assert check_readable(records, Geometry(2), unreadable=counter(records, 0.03))
    none = Holes(4, {0, 1, 2, 3})
    with pytest.raises(DataError, match="none of the 4 train examples can be read"):
        TrainBatches(none, 2, seed=0, unreadable=counter(none))
    with pytest.raises(DataError, match=r"^hole 0 is broken$"):
        TrainBatches(none, 2, seed=0)


def test_statistics_are_of_what_can_be_read():
    records = Holes(20, {0, 7})
    expected = channel_stats(Subset(records, np.array([i for i in range(20) if i not in records.lost])))
    held = materialize(records, AS_STORED, training=True, unreadable=(found := counter(records)))
    for source in (records, held):
        mean, std = channel_stats(source, unreadable=found)
        np.testing.assert_allclose((mean, std), expected)
    with pytest.raises(DataError, match="hole 0 is broken"):
        channel_stats(records)


def test_each_is_told_once_and_workers_tell_the_first_process():
    told = []
    found = Unreadable("val", 10, 0.5, told.append)
    for index in (4, 2, 4):
        found.add(index, str(index), f"{index} is broken")
    assert [entry.index for entry in told] == [4, 2]
    sent = pickle.loads(pickle.dumps(found))
    for index in range(10):
        sent.add(index, "", "")  # a worker does not judge
    assert len(sent) == 10
    assert len(found) == 2
    assert (
        found.said()
        == "8 of 10 val examples were read; 2 were left out, for they could not be: 2 is broken, and 1 more"
    )


def test_a_file_that_goes_or_breaks_while_training(make_folder, tmp_path):
    """Made by threads and by worker processes, which tell this one."""
    root = make_folder({"a": 12, "b": 12})
    records = load_folder(str(root)).splits["all"]
    geometry = Geometry(4, "random_resized")
    whole = TrainBatches(records, 4, seed=0, geometry=geometry)
    before = [whole.batch(step) for step in range(6)]
    victims = [before[0]["index"][1], before[4]["index"][2]]
    Path(records.describe(victims[0])).unlink()
    Path(records.describe(victims[1])).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match="cannot read it"):
        whole.batch(0)
    runs = []
    for how in ({"threads": 2}, {"threads": 1, "workers": 1}):
        found = counter(records)
        batches = TrainBatches(records, 4, seed=0, geometry=geometry, unreadable=found)
        runs.append(list(batches.iterate(0, 6, **how)))
        assert sorted(entry.index for entry in found.entries) == sorted(victims)
    for one, other, old in zip(*runs, before, strict=True):
        for name in old:
            np.testing.assert_array_equal(one[name], other[name])
            kept = one["index"] == old["index"]
            np.testing.assert_array_equal(one[name][kept], old[name][kept])
        assert kept.sum() == 4 - np.isin(old["index"], victims).sum()
    strict = TrainBatches(records, 4, seed=0, unreadable=Unreadable("train", len(records), 0.05))
    with pytest.raises(DataError, match=r"cannot be read, more than the 0.05"):
        list(strict.iterate(0, 6, workers=1, threads=1))


def test_an_empty_file_is_refused_at_listing_or_skipped_when_it_is_read(make_folder):
    root = make_folder({"a": 6, "b": 6})
    (root / "a" / "003.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a/003.png: the file is empty"):
        load_folder(str(root))
    records = load_folder(str(root), skip_unreadable=True).splits["all"]
    held = materialize(records, AS_STORED, training=True, unreadable=(found := counter(records)))
    assert [(entry.index, entry.where[-9:]) for entry in found.entries] == [(3, "a/003.png")]
    assert EvalBatches(held, 12, unreadable=found).batch(0)["mask"].tolist() == [index != 3 for index in range(12)]
