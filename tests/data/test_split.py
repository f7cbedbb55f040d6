from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data.records import ArrayRecords, Dataset, Records
from resnet_jax.data.rng import SPLIT, permutation
from resnet_jax.data.split import require_trainable, resolve_splits, split_indices, whole
from resnet_jax.errors import DataError, UsageError

LABELS = st.lists(st.integers(0, 5), min_size=10, max_size=80).map(np.array)


def plain(labels: np.ndarray, fractions: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """The division by largest remainders alone, which lets a class lose everything it has."""
    sizes = {name: round(fraction * len(labels)) for name, fraction in fractions.items() if name != "train"}
    order = permutation(len(labels), seed, SPLIT)
    pools, parts = [order[labels[order] == c] for c in np.unique(labels)], {}
    for name, size in sizes.items():
        have = np.array([len(pool) for pool in pools])
        quota, remainder = np.divmod(have * size, have.sum())
        ties = permutation(len(have), seed, SPLIT, epoch=1)
        quota[np.lexsort((ties, -remainder))[: size - quota.sum()]] += 1
        parts[name] = np.sort(np.concatenate([pool[:n] for pool, n in zip(pools, quota, strict=True)]))
        pools = [pool[n:] for pool, n in zip(pools, quota, strict=True)]
    return {"train": np.sort(np.concatenate(pools)), **parts}


@settings(deadline=None, max_examples=60)
@given(LABELS, st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.2, 0.35]), st.sampled_from([0.1, 0.25, 0.5]))
def test_parts_are_disjoint_cover_everything_and_keep_class_shares(labels, seed, val, test):
    fractions = {"train": 1 - val - test, "val": val, "test": test}
    held_out = round(val * len(labels)) + round(test * len(labels))
    if held_out > len(labels) - len(np.unique(labels)):
        with pytest.raises(DataError, match="classes have one image only"):
            split_indices(labels, fractions, seed)
        return
    parts = split_indices(labels, fractions, seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the global state must not matter
    again = split_indices(labels, fractions, seed)
    assert list(parts) == list(again) == ["train", "val", "test"]
    assert all((parts[name] == again[name]).all() for name in parts)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(labels)))
    assert set(labels[parts["train"]]) == set(labels)  # no class is tested without having been trained
    reference = plain(labels, fractions, seed)
    ordinary = set(labels[reference["train"]]) == set(labels)
    for name, indices in parts.items():
        assert (np.diff(indices) > 0).all()
        if name != "train":
            assert len(indices) == round(fractions[name] * len(labels))
        if ordinary:
            assert (indices == reference[name]).all()  # the divisions of old runs stay what they were
            for c in np.unique(labels):
                share = (labels == c).sum() * len(indices) / len(labels)
                assert abs((labels[indices] == c).sum() - share) < 2


def test_every_class_keeps_a_training_image_whatever_the_seed():
    labels = np.repeat(np.arange(5), [50, 50, 1, 1, 1])
    for seed in range(200):
        parts = split_indices(labels, {"train": 0.7, "val": 0.1, "test": 0.2}, seed)
        assert set(labels[parts["train"]]) == set(range(5))
        assert (len(parts["val"]), len(parts["test"])) == (10, 21)


def test_classes_that_are_not_tested_are_named():
    images = np.zeros((103, 2, 2), np.uint8)
    dataset = Dataset("d", {"all": ArrayRecords(images, np.repeat(np.arange(5), [50, 50, 1, 1, 1]))}, tuple("abcde"))
    assert resolve_splits(dataset).notes == ("3 of 5 classes have no test image, having 1 image each: c, d, e",)


def test_classes_of_one_image_each_are_refused():
    dataset = Dataset(
        "d", {"all": ArrayRecords(np.zeros((898, 2, 2), np.uint8), np.arange(898))}, tuple(map(str, range(898)))
    )
    with pytest.raises(
        DataError, match=r"d: 898 of 898 classes have one image only, 898 images in all: 90 for val and 180"
    ):
        resolve_splits(dataset)


def test_equal_classes_get_equal_shares_and_seeds_differ():
    labels = np.tile(np.arange(10), 100)
    parts = split_indices(labels, {"train": 0.8, "test": 0.2}, seed=0)
    assert np.bincount(labels[parts["test"]]).tolist() == [20] * 10
    other = split_indices(labels, {"train": 0.8, "test": 0.2}, seed=1)
    overlap = len(set(parts["test"]) & set(other["test"]))
    assert 15 <= overlap <= 70  # 40 expected by chance


def test_pinned_split():
    """The same examples are held out for ever: figures of old runs stay comparable."""
    parts = split_indices(np.tile(np.arange(3), 5), {"train": 0.6, "val": 0.2, "test": 0.2}, seed=0)
    assert (parts["val"].tolist(), parts["test"].tolist()) == ([0, 1, 2], [9, 11, 13])


def test_rare_classes_lose_no_more_than_they_have():
    labels = np.array([0] * 17 + [1, 2, 3])
    parts = split_indices(labels, {"train": 0.2, "val": 0.4, "test": 0.4}, seed=3)
    counts = np.array([np.bincount(labels[i], minlength=4) for i in parts.values()])
    assert counts.sum(0).tolist() == [17, 1, 1, 1]


@pytest.mark.parametrize("fractions", [{"a": 0.5, "b": 0.4}, {"a": 1.2, "b": -0.2}])
def test_fractions_must_make_sense(fractions):
    with pytest.raises(UsageError, match="must be at least 0 and add up to 1"):
        split_indices(np.zeros(10, int), fractions, 0)


def test_an_empty_part_is_an_error_unless_it_was_asked_for():
    with pytest.raises(DataError, match=r"split 'val' would be empty: 0\.01 of 20 examples; use more data"):
        split_indices(np.arange(20) % 2, {"train": 0.99, "val": 0.01}, 0)
    with pytest.raises(DataError, match="split 'train' would be empty"):
        split_indices(np.arange(2) % 2, {"train": 0.1, "val": 0.9}, 0)
    assert split_indices(np.arange(20) % 2, {"train": 1.0, "val": 0.0}, 0)["val"].tolist() == []


def records(count: int, first: int) -> ArrayRecords:
    """Images that carry their identity in their first pixel."""
    images = np.zeros((count, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(first, first + count)
    return ArrayRecords(images, np.arange(count) % 2)


def identities(part: Records | None) -> set[int]:
    return {int(part[i]["image"][0, 0, 0]) for i in range(len(part))} if part is not None else set()


@pytest.mark.parametrize(
    ("names", "sizes", "test_from"),
    [
        (("all",), (28, 4, 8), (0, 40)),
        (("train", "test"), (36, 4, 40), (40, 80)),
        (("train", "val"), (36, 4, 40), (40, 80)),
        (("train", "val", "test"), (40, 40, 40), (80, 120)),
    ],
)
def test_roles(names, sizes, test_from):
    dataset = Dataset("d", {name: records(40, 40 * i) for i, name in enumerate(names)}, ("a", "b"))
    splits = resolve_splits(dataset)
    parts = [identities(part) for part in (splits.train, splits.val, splits.test)]
    assert tuple(map(len, parts)) == sizes
    assert len(set.union(*parts)) == sum(sizes)  # nobody has two roles
    assert parts[2] <= set(range(*test_from))
    assert parts[0] <= set(range(40))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train", "test"), "splits: train from train but 10 % by class, which are val; test from Testing"),
        (
            ("train", "val"),
            "splits: train from train but 10 % by class, which are val; test from valid, the final test, used for "
            "no decision",
        ),
        (("train", "val", "test"), "splits: train from train, val from valid, test from Testing"),
    ],
)
def test_which_part_of_the_source_became_what_is_said(names, said):
    origins = {"val": "valid", "test": "Testing"}
    parts = {name: records(40, 40 * i) for i, name in enumerate(names)}
    assert resolve_splits(Dataset("d", parts, ("a", "b"), ("left out",), origins)).notes == ("left out", said)


def labelled(*labels: int) -> ArrayRecords:
    return ArrayRecords(np.zeros((len(labels), 2, 2), np.uint8), np.array(labels))


def test_a_class_that_is_tested_and_never_trained_is_refused():
    dataset = Dataset("d", {"train": labelled(0, 1, 0, 1), "test": labelled(0, 2, 2)}, ("a", "b", "c"))
    splits = resolve_splits(dataset, val_fraction=0)
    with pytest.raises(DataError, match=r"1 of 3 classes have images in test \(2 of 3\) and none in train: c"):
        require_trainable(splits, dataset.class_names)


def test_class_numbers_that_no_image_has_are_refused_and_names_are_not():
    for labels, message in (
        ((1, 2, 1, 2), r"labels are 1\.\.2, .* save y - 1"),
        ((0, 3, 0, 3), "labels 1, 2 of 0..3: save np"),
    ):
        numbers = tuple(map(str, range(max(labels) + 1)))
        dataset = Dataset("d", {"train": labelled(*labels), "test": labelled(*labels)}, numbers)
        with pytest.raises(DataError, match=message):
            require_trainable(resolve_splits(dataset, val_fraction=0), numbers)
        named = Dataset("d", dataset.splits, tuple("abcd"[: len(numbers)]))
        splits = resolve_splits(named, val_fraction=0)
        require_trainable(splits, named.class_names)
        assert "classes have no image: " in splits.notes[0]


def test_no_validation_and_no_test():
    dataset = Dataset("d", {"all": records(40, 0)}, ("a", "b"))
    splits = resolve_splits(dataset, val_fraction=0, test_fraction=0)
    assert (len(splits.train), splits.val, splits.test) == (40, None, None)
    two = Dataset("d", {"train": records(40, 0), "test": records(10, 40)}, ("a", "b"))
    splits = resolve_splits(two, val_fraction=0)
    assert (len(splits.train), splits.val) == (40, None)
    assert identities(splits.test) == set(range(40, 50))


def test_the_seed_chooses_the_split():
    dataset = Dataset("d", {"all": records(40, 0)}, ("a", "b"))
    tests = [identities(resolve_splits(dataset, seed=seed).test) for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0.9, 0.2)])
def test_something_must_be_left_to_train_on(val, test):
    dataset = Dataset("d", {"all": records(40, 0)}, ("a", "b"))
    with pytest.raises(UsageError, match="leave nothing to train on"):
        resolve_splits(dataset, val_fraction=val, test_fraction=test)


def test_whole():
    one = records(40, 0)
    assert whole(Dataset("d", {"all": one}, ("a", "b"))) is one
    with pytest.raises(UsageError, match="d has the splits train, test: name the one"):
        whole(Dataset("d", {"train": one, "test": one}, ("a", "b")))
