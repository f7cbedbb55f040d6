"""Pairs composed of two sources: of one class, on one side of a division, another partner in every epoch."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.data.example import OTHER
from resnet_jax.data.kinds.pairs import PairRecords, paired
from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import ArrayRecords
from resnet_jax.data.transforms import parse_transform
from resnet_jax.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path):
    """Images and signals of classes 1, 0 and 2, in two files; a value says which example it is."""
    rng = np.random.default_rng(0)
    for name, shape, count in (("images", (4, 4, 1), 60), ("signals", (6, 2), 90)):
        labels = rng.permutation(np.arange(count) % 3)
        values = np.arange(count).reshape(-1, *(1,) * len(shape))
        inputs = np.broadcast_to(values, (count, *shape)).astype(np.uint8 if name == "images" else np.float32)
        names = np.array(["b", "a", "c"] if name == "images" else ["a", "b", "c"])
        np.savez(tmp_path / f"{name}.npz", x=inputs, y=labels, class_names=names)
    return tmp_path


def load(folder, end=""):
    return load_dataset(f"pairs:npz:{folder / 'images.npz'}+npz:{folder / 'signals.npz'}{end}")


def parts_of(folder):
    left, right = (load_dataset(f"npz:{folder / name}.npz") for name in ("images", "signals"))
    return (
        np.array(left.class_names)[left.splits["all"].labels],
        np.array(right.class_names)[right.splits["all"].labels],
    )


def test_pairs_are_of_one_class_by_name_and_no_example_is_in_two_splits(folder):
    dataset, (images, signals) = load(folder), parts_of(folder)
    seen: dict[str, list[set[int]]] = {"image": [], OTHER: []}
    for records in dataset.splits.values():
        numbers = {name: [int(records[i][name].flat[0]) for i in range(len(records))] for name in seen}
        names = np.array(dataset.class_names)[records.labels]
        assert (names == images[numbers["image"]]).all()
        assert (names == signals[numbers[OTHER]]).all()
        for name, used in numbers.items():
            seen[name].append(set(used))
    for name, count in (("image", 60), (OTHER, 90)):
        assert sum(map(len, seen[name])) == len(set().union(*seen[name])) == count
    assert [len(dataset.splits[split]) for split in ("train", "val", "test")] == [63, 9, 18]


def test_the_seed_makes_other_pairs_and_all_divides_nothing(folder):
    def numbers(dataset):
        return [int(records[i][OTHER].flat[0]) for records in dataset.splits.values() for i in range(len(records))]

    assert numbers(load(folder)) == numbers(load(folder, "@0")) != numbers(load(folder, "@1"))
    whole = load(folder, "@all")
    assert list(whole.splits) == ["all"]
    assert len(whole.splits["all"]) == 90
    spec = whole.splits["all"].spec
    assert (spec["image"].shape, spec[OTHER].shape) == ((4, 4, 1), (6, 2, 1))
    assert whole.splits["all"].describe(0).count("index") == 2


def test_digits_are_paired_with_other_digits():
    dataset = load_dataset("digits_pairs")
    images = [np.stack([records[i]["image"] for i in range(len(records))]) for records in dataset.splits.values()]
    others = [np.stack([records[i][OTHER] for i in range(len(records))]) for records in dataset.splits.values()]
    spec = dataset.splits["train"].spec
    assert (spec["image"].meaning, spec[OTHER].meaning) == ("image", "signal")
    assert others[0].shape == (len(images[0]), 64, 1)
    assert others[0].dtype == np.float32
    for image, other, records in zip(images, others, dataset.splits.values(), strict=True):
        scanned = image.reshape(-1, 64).astype(np.float32) / 255
        assert not (scanned == other[..., 0]).all(axis=1).any()  # nobody is its own partner
        rows = {row.tobytes(): label for row, label in zip(scanned, records.labels, strict=True)}
        assert [rows[row.tobytes()] for row in other[..., 0]] == records.labels.tolist()  # the same digits, by class
    assert "composed" in dataset.notes[0]


@pytest.mark.parametrize(
    ("location", "error", "said"),
    [
        ("digits", UsageError, "pairs:digits is not complete; write pairs:LEFT.RIGHT"),
        ("digits+digits_pairs@x", UsageError, "data source"),
        ("digits+npz:{folder}/signals.npz", DataError, "pairs need the same classes on both sides: digits has 0, 1"),
    ],
)
def test_what_cannot_be_paired_is_refused(folder, location, error, said):
    with pytest.raises(error, match=said):
        load_dataset("pairs:" + location.format(folder=folder))


def test_a_setting_that_neither_side_uses_is_refused():
    with pytest.raises(UsageError, match="signal_length 5 is not used by digits or digits"):
        load_dataset("pairs:digits+digits", signal_length=5)


def test_a_class_of_one_example_has_no_other():
    records = ArrayRecords(np.zeros((3, 4, 4), np.uint8), np.array([0, 0, 1]))
    with pytest.raises(DataError, match="class 1 has 1 examples on the left"):
        paired(records, records, records.labels, 0, apart=True)


def test_partners_change_within_their_class_and_none_is_lost():
    labels = np.arange(40, dtype=np.int32) % 3
    images = np.arange(40, dtype=np.float32)[:, None, None, None] * np.ones((4, 4, 1), np.float32)
    left = ArrayRecords(images, labels)
    right = ArrayRecords(np.arange(40, dtype=np.float32)[:, None, None] * np.ones((6, 1), np.float32), labels)
    pairs = PairRecords(left, right, np.arange(40)[:, None] * np.ones(2, np.int64)[None], labels)
    batches, transform = TrainBatches(pairs, 20, seed=0), parse_transform("shuffle_partners")

    @jax.jit
    def shuffled(batch):
        keys = jax.vmap(lambda e, i: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), e), i))(
            batch["epoch"], batch["index"]
        )
        return transform.apply(dict(batch), keys, {})[OTHER]

    partners = []
    for step in (0, 2, 2):
        batch = batches.batch(step)
        before, after = batch[OTHER][:, 0, 0], np.asarray(shuffled(batch))[:, 0, 0]
        assert sorted(before) == sorted(after)
        assert (labels[after.astype(int)] == batch["label"]).all()
        assert (before != after).any()
        partners.append(dict(zip(batch["index"].tolist(), after.tolist(), strict=True)))
    assert partners[1] == partners[2]  # a function of seed, epoch and example
    common = set(partners[0]) & set(partners[1])
    assert len(common) > 3
    assert any(partners[0][index] != partners[1][index] for index in common)
