"""Other ways to divide: by a hash of names, by whole groups, in folds; and subsets of what is trained on."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data.division import Division
from resnet_jax.data.records import ArrayRecords, Dataset, Source
from resnet_jax.data.source import load_dataset
from resnet_jax.data.split import Splits, resolve_splits
from resnet_jax.data.subset import subset_of
from resnet_jax.errors import DataError, UsageError

ROLES = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Named(ArrayRecords):
    """Arrays whose examples have names."""

    names: tuple[str, ...] = ()


def named(names: list[str], labels: np.ndarray | None = None, **further: Source) -> Dataset:
    labels = np.arange(len(names)) % 2 if labels is None else labels
    records = Named(np.zeros((len(names), 2, 2), np.uint8), labels, names=tuple(names))
    split = "train" if further else "all"
    return Dataset("d", {split: records, **further}, tuple("abcd")[: max(int(labels.max()) + 1, 2)])


def names_in(splits: Splits) -> dict[str, list[str]]:
    parts = {role: getattr(splits, role) for role in ROLES}
    return {
        role: [part.records.names[i] for i in part.indices.tolist()] for role, part in parts.items() if part is not None
    }


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.booleans(), st.integers(150, 300))
def test_by_hash_an_example_stays_where_it_is_whatever_is_added_removed_or_reordered(seed, grouped, count):
    rng = np.random.default_rng(seed)
    names = [f"{number % 7}/{number}.jpg" for number in (rng.choice(10**6, 300, replace=False) + 10)]
    kept = [names[i] for i in rng.permutation(300)[:count]]
    division = Division(0.2, 0.3, seed, "hash", group_by="^([0-9]/[0-9][0-9])" if grouped else None)
    whole, part = (names_in(resolve_splits(named(some), division)) for some in (names, kept))
    assert sorted(name for role in whole.values() for name in role) == sorted(names)
    for role in ROLES:
        assert set(part[role]) == set(whole[role]) & set(kept)
    other = names_in(resolve_splits(named(names), dataclasses.replace(division, val_fraction=0.1)))
    assert other["test"] == whole["test"]  # what is validated on decides nothing about the test
    assert set(other["val"]) <= set(whole["val"])


def test_the_hash_is_the_same_on_every_machine_and_for_ever():
    """Pinned: figures of runs on other machines are of the same test images."""
    found = names_in(resolve_splits(named([f"é/{i}.png" for i in range(40)]), Division(method="hash")))
    assert {role: [int(name[2:-4]) for name in names] for role, names in found.items() if role != "train"} == PINNED
    decomposed = named([f"e\u0301/{i}.png" for i in range(40)])  # as macOS writes it
    again = resolve_splits(decomposed, Division(method="hash"))
    assert [int(name[3:-4]) for name in names_in(again)["test"]] == PINNED["test"]
    assert again.members == resolve_splits(named([f"é/{i}.png" for i in range(40)]), Division(method="hash")).members


PINNED = {"val": [15, 23, 35, 38, 39], "test": [1, 4, 5, 6, 13, 14, 16, 19, 25]}


def test_hashed_shares_come_near_what_is_asked_and_are_said():
    splits = resolve_splits(named([f"{i}" for i in range(4000)]), Division(0.1, 0.2, method="hash"))
    val, test = len(splits.val or ()), len(splits.test or ())
    assert abs(val - 400) < 4 * 19  # four standard deviations of a binomial
    assert abs(test - 800) < 4 * 25.3
    said = f"4,000 examples divided by a hash of their names: train {4000 - val - test:,} ("
    assert splits.notes[0].startswith(said)


def test_files_are_named_by_their_path_below_the_data_set_and_arrays_by_what_they_hold(tmp_path):
    rng = np.random.default_rng(0)
    divided = {}
    for place in ("here", "there/deep"):
        for i in range(60):
            file = tmp_path / place / "ab"[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(".png", rng.integers(0, 256, (4, 4, 3), np.uint8))[1].tobytes())
        dataset = load_dataset(f"folder:{tmp_path / place}")
        divided[place] = resolve_splits(dataset, method="hash")
    assert divided["here"].members == divided["there/deep"].members
    images = rng.integers(0, 256, (50, 4, 4), np.uint8)
    arrays, shuffled = (
        resolve_splits(Dataset("d", {"all": ArrayRecords(x, np.arange(50) % 2)}, ("a", "b")), method="hash")
        for x in (images, images[rng.permutation(50)])
    )
    assert "a hash of their contents" in arrays.notes[0]
    pixels = [
        {splits.test[i]["image"].tobytes() for i in range(len(splits.test))}
        for splits in (arrays, shuffled)
        if splits.test is not None
    ]
    assert pixels[0] == pixels[1]


GROUPED = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 2)), min_size=40, max_size=120)


@settings(deadline=None, max_examples=25)
@given(GROUPED, st.integers(0, 2**32), st.sampled_from(["stratified", "hash"]), st.sampled_from([None, "1/2", "3/3"]))
def test_no_group_is_cut(examples, seed, method, fold):
    names, labels = [f"p{group}_{i}" for i, (group, _) in enumerate(examples)], np.array([c for _, c in examples])
    division = Division(0.2, 0.2, seed, method, group_by="^(p[0-9]+)_", fold=fold)
    try:
        splits = resolve_splits(named(names, labels), division)
    except DataError as error:
        if "would be empty" not in str(error):
            raise
        return
    found = names_in(splits)
    assert sorted(name for role in found.values() for name in role) == sorted(names)
    groups = {role: {name.split("_")[0] for name in part} for role, part in found.items()}
    assert sum(map(len, groups.values())) == len(set().union(*groups.values()))
    counts = ", ".join(f"{role} {len(groups[role]):,}" for role in ROLES)
    assert f"groups of examples, by data.group_by ^(p[0-9]+)_: {counts}" in splits.notes
    if method == "stratified" and fold is None:
        assert set(splits.train.labels) == set(labels)  # every class is trained on


def test_groups_are_divided_near_to_the_shares_of_every_class():
    rng = np.random.default_rng(1)
    sizes = rng.integers(5, 30, 60)
    names = [f"{g}_{i}" for g, size in enumerate(sizes) for i in range(size)]
    labels = np.concatenate([rng.choice(3, size, p=rng.dirichlet([1, 1, 1])) for size in sizes])
    splits = resolve_splits(named(names, labels), Division(0.15, 0.25, group_by="^([0-9]+)_"))
    total = np.bincount(labels)
    for part, share in ((splits.train, 0.6), (splits.val, 0.15), (splits.test, 0.25)):
        assert part is not None
        assert np.abs(np.bincount(part.labels) / total - share).max() < 0.02
    again = resolve_splits(named(names, labels), Division(0.15, 0.25, 1, group_by="^([0-9]+)_"))
    assert again.members != splits.members


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(0, 3), min_size=30, max_size=90).map(np.array),
    st.integers(2, 6),
    st.sampled_from(["stratified", "hash"]),
    st.booleans(),
)
def test_folds_are_disjoint_cover_what_is_not_test_and_leave_the_test_alone(labels, count, method, grouped):
    names = [f"{i % 13}_{i}" for i in range(len(labels))]
    division = Division(0.1, 0.2, 3, method, group_by="^([0-9]+)_" if grouped else None)
    try:
        plain = names_in(resolve_splits(named(names, labels), division))
        folds = [
            names_in(resolve_splits(named(names, labels), dataclasses.replace(division, fold=f"{i + 1}/{count}")))
            for i in range(count)
        ]
    except DataError as error:
        if not any(said in str(error) for said in ("would be empty", "classes have one image only")):
            raise
        return
    assert all(fold["test"] == plain["test"] for fold in folds)
    rest = sorted(set(names) - set(plain["test"]))
    assert sorted(name for fold in folds for name in fold["val"]) == rest
    for fold in folds:
        assert sorted([*fold["train"], *fold["val"]]) == rest
    if method == "stratified" and not grouped:
        of = dict(zip(names, labels.tolist(), strict=True))
        counts = np.array([np.bincount([of[name] for name in fold["val"]], minlength=4) for fold in folds])
        assert (np.ptp(counts, axis=0) <= 1).all()
        assert np.ptp(counts.sum(axis=1)) <= 1


def test_folds_of_a_source_with_a_test_are_of_its_training_examples():
    test = ArrayRecords(np.zeros((6, 2, 2), np.uint8), np.arange(6) % 2)
    data = named([str(i) for i in range(20)], test=test)
    splits = resolve_splits(data, fold="2/5")
    assert splits.test is test
    assert (len(splits.train), len(splits.val or ())) == (16, 4)
    assert splits.notes[0] == "splits: train from train but fold 2/5, which is val; test from test"
    with pytest.raises(UsageError, match=r"data\.fold 1/5: d has a split for validation of its own"):
        resolve_splits(named([str(i) for i in range(20)], test=test, val=test), fold="1/5")


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(0, 3), min_size=10, max_size=80).map(np.array),
    st.lists(st.one_of(st.floats(0.01, 0.99), st.integers(1, 5)), min_size=2, max_size=2),
    st.booleans(),
)
def test_of_two_subsets_the_smaller_is_in_the_larger_and_every_class_has_its_share(labels, sizes, hashing):
    told = [str(i) for i in range(len(labels))] if hashing else None
    classes, counts = np.unique(labels, return_counts=True)
    names, found = tuple("abcd"), []
    for size in sizes:
        if size > counts.min():
            with pytest.raises(DataError, match=f"data.subset {size:g} is more than the"):
                subset_of(labels, size, 7, told=told, class_names=names)
            return
        part = subset_of(labels, size, 7, told=told, class_names=names)
        for c, count in zip(classes, counts, strict=True):
            wanted = int(size) if size >= 1 else max(1, round(size * int(count)))
            assert (labels[part] == c).sum() == wanted
        found.append(set(part.tolist()))
    smaller, larger = sorted(found, key=len)
    if all(size < 1 for size in sizes) or all(size >= 1 for size in sizes):
        assert smaller <= larger


@pytest.mark.parametrize("told", [None, [str(i) for i in range(200)]], ids=["random", "hash"])
@pytest.mark.parametrize("sizes", [(0.1, 0.2, 0.55, 0.9), (1, 3, 10, 40)])
def test_every_subset_is_in_the_next_larger_one(sizes, told):
    labels = np.arange(200) % 4
    parts = [set(subset_of(labels, size, 7, told=told, class_names=tuple("abcd")).tolist()) for size in sizes]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(parts))


def test_a_subset_leaves_validation_and_test_as_they_are():
    names, labels = [str(i) for i in range(200)], np.arange(200) % 4
    whole, part = (names_in(resolve_splits(named(names, labels), subset=size)) for size in (None, 0.1))
    assert (part["val"], part["test"]) == (whole["val"], whole["test"])
    assert set(part["train"]) < set(whole["train"])
    splits = resolve_splits(named(names, labels), subset=5)
    assert np.bincount(splits.train.labels).tolist() == [5] * 4
    assert splits.notes[-1] == "data.subset 5: trained on 20 of 140 training examples, 5 a class"
    with pytest.raises(DataError, match=r"d: data.subset 50 is more than the 35 training examples of class a"):
        resolve_splits(named(names, labels), subset=50)


def test_groups_that_a_source_has_on_both_sides_are_said():
    test = Named(np.zeros((4, 2, 2), np.uint8), np.arange(4) % 2, names=("p1_x", "p1_y", "q_x", "r_x"))
    data = named([f"p{i % 5}_{i}" for i in range(20)], test=test)
    splits = resolve_splits(data, group_by="^([a-z0-9]+)_")
    assert splits.notes[-1] in {
        f"leakage: 1 groups of test, 2 of its 4 examples, are in {role} too, for the source divides them so: p1"
        for role in ("train", "val")
    }


def test_groups_of_a_manifest_are_a_column(tmp_path):
    rows = ["path,label,group"]
    for i in range(24):
        (tmp_path / f"{i}.png").write_bytes(cv2.imencode(".png", np.full((4, 4, 3), i, np.uint8))[1].tobytes())
        rows.append(f"{i}.png,{'ab'[i % 2]},patient {i // 4}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    dataset = load_dataset(f"manifest:{tmp_path / 'table.csv'}")
    assert not any("left out" in note for note in dataset.notes)
    assert (
        resolve_splits(dataset).notes[-1].startswith("the source knows groups of examples: data.group_by group keeps")
    )
    splits = resolve_splits(dataset, group_by="group", val_fraction=0.17, test_fraction=0.34)
    assert [len(part) for part in (splits.train, splits.val or (), splits.test or ())] == [12, 4, 8]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"fold": "0/5"}, "data.fold '0/5' must be i/k"),
        ({"fold": "1/1"}, "k is 2 or more"),
        ({"fold": "2"}, "counted from 1"),
        ({"group_by": "p[0-9]+"}, "has 0 groups in parentheses; it needs one"),
        ({"group_by": "(a)(b)"}, "has 2 groups in parentheses"),
        ({"group_by": "(["}, "is no regular expression"),
        ({"subset": 1.5}, "data.subset 1.5 must be a share"),
        ({"subset": 0.0}, "must be a share"),
        ({"method": "hashed"}, "unknown method 'hashed'; did you mean 'hash'"),
    ],
)
def test_divisions_that_none_can_have(wanted, said):
    with pytest.raises(UsageError) as error:
        Division(**wanted)
    assert said in str(error.value)


def test_what_the_data_cannot_give_is_said_with_what_it_has():
    data = named([f"p{i % 2}_{i}" for i in range(20)])
    with pytest.raises(DataError, match=r"d: split 'val' would be empty \(2 groups of 20 examples\)"):
        resolve_splits(data, group_by="^(p[0-9])")
    with pytest.raises(DataError, match=r"is not in the names of 10 of 20 examples: p1_1, p1_3, p1_5 and 7 more"):
        resolve_splits(data, group_by="^(p0)_")
    with pytest.raises(DataError, match=r"data\.group_by group, but the source knows no groups"):
        resolve_splits(data, group_by="group")
    with pytest.raises(DataError, match=r"split 'val' would be empty \(20 examples, data.fold 30/30\)"):
        resolve_splits(data, fold="30/30")
    values = Dataset("v", {"all": ArrayRecords(np.zeros((9, 2, 2), np.uint8), np.zeros(9))}, ("y",), kind="value")
    with pytest.raises(UsageError, match="number of examples a class, and these have no classes"):
        resolve_splits(values, subset=3)
