from __future__ import annotations

import json
import logging
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data import index as indices
from resnet_jax.data.folder import load_folder
from resnet_jax.data.manifest import load_manifest
from resnet_jax.data.path_table import PathTable
from resnet_jax.data.reading import Reading
from resnet_jax.errors import DataError
from tests.data.test_layouts import put

NAMES = st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=8), max_size=9)


@settings(max_examples=50, deadline=None)
@given(NAMES, st.sampled_from(["", "/a b/"]))
def test_a_table_is_the_list_it_was_made_of(names, prefix):
    table = pickle.loads(pickle.dumps(PathTable.of(names, prefix)))
    expected = [prefix + name for name in names]
    assert list(table) == expected
    assert table[:] == expected
    assert [table[i] for i in range(-len(names), len(names))] == expected * 2
    assert len(table) == len(names)
    with pytest.raises(IndexError, match="path"):
        table[len(names)]


def test_names_that_are_not_utf8_come_back():
    odd = os.fsdecode(b"caf\xe9/\xff.png")
    assert list(PathTable.of([odd, ""])) == [odd, ""]


def test_a_path_takes_its_name_and_eight_bytes():
    table = PathTable.of((f"n{i:08}/n{i:08}_{i:05}.JPEG" for i in range(1000)), "/some/where/else/")
    assert table.nbytes == 1000 * (30 + 8) + 8


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keep indices of any size in a folder of this test; tell how often one was made."""
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(indices, "LEAST_KEPT", 1)
    made = []
    save = indices._save

    def saving(*arguments):
        made.append(arguments[0])
        save(*arguments)

    monkeypatch.setattr(indices, "_save", saving)
    return made


def told(dataset):
    found = {split: (list(r.paths), r.labels.tolist(), r.encoded_bytes) for split, r in dataset.splits.items()}
    return found, dataset.class_names, dataset.notes, dict(dataset.origins), dataset.kind


def test_the_second_time_nothing_is_listed_and_all_is_the_same(tmp_path, kept, monkeypatch):
    root = put(tmp_path / "set", "train/a/1.png", "train/b/x/1.png", "val/a/2.png", "val/b/2.png", "train/b/n.txt")
    first = load_folder(str(root))
    monkeypatch.setattr(os, "scandir", None)
    second = load_folder(str(root))
    assert told(first) == told(second)
    assert len(kept) == 1
    assert second.splits["val"][0]["image"].shape == (2, 3, 3)


@pytest.mark.parametrize("times", ["new", "kept"])
@pytest.mark.parametrize("change", ["add", "add hidden", "remove", "rename", "add class", "add deep"])
def test_what_was_changed_is_noticed(tmp_path, kept, change, times):
    root = put(tmp_path / "set", "a/1.png", "a/x/3.png", "b/1.png", "b/2.png")
    before = load_folder(str(root))
    stats = {folder: os.stat(folder) for folder in (root, root / "a", root / "a" / "x", root / "b")}
    match change:
        case "add":
            put(root, "b/3.png")
        case "add hidden":
            put(root, "b/.3.png")
        case "remove":
            (root / "b" / "2.png").unlink()
        case "rename":
            (root / "b" / "2.png").rename(root / "b" / "7.png")
        case "add class":
            put(root, "c/1.png")
        case "add deep":
            put(root, "a/x/4.png")
    if times == "kept":  # as copying programs set them
        for folder, stat in stats.items():
            os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = load_folder(str(root))
    assert len(kept) == 2
    assert (told(before) == told(after)) == (change == "add hidden")


def test_another_way_of_reading_is_another_index(tmp_path, kept):
    root = put(tmp_path / "set", "a/a_1.png", "b/b_1.png")
    for wanted in ({}, {"class_pattern": "/([ab])_"}, {"least_classes": 1}, {}):
        load_folder(str(root), **wanted)
    assert len(set(kept)) == len(kept) == 3
    grey = load_folder(str(root), channels=1).splits["all"]
    assert grey[0]["image"].shape == (2, 3, 1)
    assert len(kept) == 3


def test_a_list_of_classes_that_changes_is_noticed(tmp_path, kept):
    root = put(tmp_path / "set", "a/1.png", "b/1.png")
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    assert load_folder(str(root), class_list=str(names)).class_names == ("a", "b")
    names.write_text("b\na\n")
    assert load_folder(str(root), class_list=str(names)).class_names == ("b", "a")


@pytest.mark.parametrize("damage", ["cut", "flip", "label", "empty", "other", "pickle"])
def test_a_damaged_index_is_made_anew(tmp_path, kept, damage):
    root = put(tmp_path / "set", "a/1.png", "b/1.png")
    before = load_folder(str(root))
    (path,) = set(kept)
    data = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    match damage:
        case "cut":
            path.write_bytes(data[:-30])
        case "flip":
            at = data.index(b"a/1.png")
            path.write_bytes(data[:at] + b"c" + data[at + 1 :])
        case "label":
            arrays["all.labels"] = np.array([1, 1], np.int32)
            np.savez(path, **arrays)
        case "empty":
            path.write_bytes(b"")
        case "other":
            about = json.loads(arrays["about"].tobytes())
            arrays["about"] = np.frombuffer(json.dumps({**about, "class_names": ["x", "y"]}).encode(), np.uint8)
            np.savez(path, **arrays)
        case "pickle":
            np.savez(path, about=np.array([print], object))
    assert told(load_folder(str(root))) == told(before)
    assert len(kept) == 2
    assert told(load_folder(str(root))) == told(before)
    assert len(kept) == 2


def test_few_files_are_not_kept_nor_any_if_it_is_switched_off(tmp_path, kept, monkeypatch):
    root = put(tmp_path / "set", "a/1.png", "b/1.png")
    monkeypatch.setattr(indices, "LEAST_KEPT", 3)
    load_folder(str(root))
    monkeypatch.setattr(indices, "LEAST_KEPT", 1)
    monkeypatch.setenv("RESNET_JAX_CACHE", "off")
    load_folder(str(root))
    assert not kept


def test_a_directory_that_cannot_be_written_is_said(tmp_path, kept, monkeypatch, caplog):
    root = put(tmp_path / "set", "a/1.png", "b/1.png")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert len(load_folder(str(root)).splits["all"]) == 2
    assert "the index is not stored, and will be rebuilt next time" in caplog.text


def test_a_folder_that_can_no_longer_be_read_is_an_error(tmp_path, kept, monkeypatch):
    root = put(tmp_path / "set", "a/1.png", "b/1.png")
    load_folder(str(root))
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "listdir", refusing)
    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"/b: cannot read this folder \(Permission denied\)"):
        load_folder(str(root))


def test_the_index_of_a_table_is_kept_and_changes_are_noticed(tmp_path, kept):
    put(tmp_path / "set", "x/1.png", "x/2.png", "y/3.png")
    table = tmp_path / "set" / "table.csv"
    table.write_text("path,value_a,value_b,split\nx/1.png,1,2,train\nx/2.png,3,4,train\ny/3.png,5,6,val\n")
    first = load_manifest(str(table), Reading())
    assert told(load_manifest(str(table), Reading())) == told(first)
    assert len(kept) == 1
    assert first.splits["train"].labels.dtype == np.float32
    table.write_text(table.read_text().replace("5,6", "5,7"))
    assert load_manifest(str(table), Reading()).splits["val"].labels.tolist() == [[5, 7]]
    (tmp_path / "set" / "y" / "3.png").unlink()
    with pytest.raises(DataError, match="line 4: there is no file"):
        load_manifest(str(table), Reading())
