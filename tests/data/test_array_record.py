"""Copies of data sets as one ArrayRecord file: the same examples, and every way in which such a file can be broken."""

from __future__ import annotations

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from hypothesis import given, settings, strategies as st

from resnet_jax.data import ArrayRecords, Dataset, Subset, load_dataset
from resnet_jax.data.convert import convert, write_dataset
from resnet_jax.data.record_file import RecordFile
from resnet_jax.data.record_format import MAGIC
from resnet_jax.data.records import groups_of
from resnet_jax.errors import DataError, UsageError


def same(first: Dataset, second: Dataset) -> None:
    """Compare all that two data sets say and hold, but for their names."""
    for name in ("class_names", "notes", "kind", "num_classes"):
        assert getattr(first, name) == getattr(second, name), name
    assert (dict(first.origins), list(first.splits)) == (dict(second.origins), list(second.splits))
    for split, records in first.splits.items():
        other = second.splits[split]
        assert records.spec == other.spec
        assert (records.labels.dtype, len(records)) == (other.labels.dtype, len(other))
        np.testing.assert_array_equal(records.labels, other.labels)
        groups = groups_of(records)
        if groups is None:
            assert groups_of(other) is None
        else:
            np.testing.assert_array_equal(groups, groups_of(other))
        for index in range(len(records)):
            mine, theirs = records[index], other[index]
            assert mine.keys() == theirs.keys()
            for name, value in mine.items():
                assert value.dtype == theirs[name].dtype, name
                np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.fixture
def pictures(make_folder) -> Path:
    counts = {"set/train/ant": 3, "set/train/bee": 70, "set/test/ant": 2, "set/test/bee": 1, "set/extra": 1}
    return make_folder(counts) / "set"


def test_a_folder_its_files_are_copied_byte_for_byte(pictures, tmp_path):
    source, out = f"folder:{pictures}", tmp_path / "x.array_record"
    written = convert(source, out)
    assert (written.examples, written.encoded) == ({"train": 73, "test": 3}, {"train": True, "test": True})
    assert written.size == out.stat().st_size
    copy = load_dataset(f"array_record:{out}")
    same(load_dataset(source), copy)
    assert copy.notes == ("folders left out beside the splits: extra",)
    for split in ("train", "test"):
        mine, theirs = load_dataset(source).splits[split], copy.splits[split]
        assert [mine.encoded(i) for i in range(len(mine))] == [theirs.encoded(i) for i in range(len(mine))]
    assert copy.splits["train"].describe(3) == f"index 3 of split 'train' of {out} (train/bee/000.png)"
    for wanted in ({"channels": 1}, {"pixels": "stored"}, {"orientation": "exif"}, {"least_classes": 1}):
        if "orientation" not in wanted:
            same(load_dataset(source, **wanted), load_dataset(f"array_record:{out}", **wanted))
        else:
            load_dataset(f"array_record:{out}", **wanted)


def test_a_photograph_that_lies_on_its_side_is_turned_upright_where_that_is_asked_for(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = 255
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # a quarter turn
    data = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(data)
    convert(f"folder:{tmp_path}/photos", tmp_path / "x")
    shapes = {
        orientation: load_dataset(f"array_record:{tmp_path}/x", orientation=orientation).splits["all"][0]["image"].shape
        for orientation in ("stored", "exif")
    }
    assert shapes == {"stored": (4, 6, 3), "exif": (6, 4, 3)}


def test_the_digits_and_a_copy_of_the_copy(tmp_path):
    convert("digits", tmp_path / "a")
    same(load_dataset("digits"), load_dataset(f"array_record:{tmp_path}/a"))
    convert(f"array_record:{tmp_path}/a", tmp_path / "b")
    first, second = (load_dataset(f"array_record:{tmp_path}/{name}", channels=3).splits["all"] for name in "ab")
    grey = load_dataset("digits", channels=3).splits["all"]
    assert first.spec == second.spec == grey.spec
    for index in range(0, 1797, 100):
        np.testing.assert_array_equal(first[index]["image"], grey[index]["image"])
        np.testing.assert_array_equal(second[index]["image"], grey[index]["image"])
    with pytest.raises(UsageError, match="holds arrays and no image files that could be turned upright"):
        load_dataset(f"array_record:{tmp_path}/a", orientation="exif")


def test_a_table_of_images_and_arrays_with_several_labels(make_folder, tmp_path):
    make_folder({"set": 3})
    np.save(tmp_path / "v.npy", np.arange(90, dtype=np.uint16).reshape(6, 5, 3))
    rows = ["path,labels", *(f"set/{i:03}.png,{'a;b' if i else 'b'}" for i in range(3)), "v.npy,a"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    source = f"manifest:{tmp_path}/t.csv"
    convert(source, tmp_path / "x")
    first, second = load_dataset(source), load_dataset(f"array_record:{tmp_path}/x")
    assert (second.kind, second.class_names) == ("multi-label", ("a", "b"))
    same(first, second)


DTYPES = ("uint8", "int16", "uint16", "int64", "float16", "float32", "float64", "bool")


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_arrays_of_any_dtype_and_rank_come_back_as_they_were(tmp_path_factory, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    count = data.draw(st.integers(1, 6))
    sides = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=3)))
    dtype = data.draw(st.sampled_from(("uint8", "uint16", "float32")))
    channels = (data.draw(st.sampled_from((1, 3))),)
    images = (rng.random((count, *sides, *channels)) * 200).astype(dtype)
    fields = {}
    for number in range(data.draw(st.integers(0, 3))):
        shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
        fields[f"more {number}\udc80\n"] = (rng.random((count, *shape)) * 99).astype(data.draw(st.sampled_from(DTYPES)))
    kind = data.draw(st.sampled_from(("class", "value", "multi-label")))
    names = ("café", "x\udcff") if kind != "value" else ("mass", "size", "x")
    labels = {
        "class": rng.integers(0, 2, count),
        "value": rng.normal(size=(count, 3)).astype(np.float32),
        "multi-label": rng.integers(0, 2, (count, 2)).astype(np.float32),
    }[kind]
    records = ArrayRecords(images, labels, fields=fields)
    if data.draw(st.booleans()):
        object.__setattr__(records, "groups", np.array([f"patient {i % 2}" for i in range(count)]))
    dataset = Dataset("here", {"all": records}, names, ("a note\n",), {}, 2, kind)
    out = tmp_path_factory.mktemp("any") / "x"
    write_dataset(dataset, out, threads=2)
    same(dataset, load_dataset(f"array_record:{out}"))


class Ragged:
    """Signals of two channels and any length, each with a mask: sides that vary from example to example."""

    labels = np.array([0, 1, 0], np.int32)
    groups = np.array([7, 8, 7])

    def __len__(self):
        return 3

    @property
    def spec(self):
        from resnet_jax.data import Field

        return {
            "image": Field((None, 2), "float32", "signal"),
            "spans": Field((None,), "int16", "array"),
            "label": Field((), "int32", "label"),
        }

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return {"image": rng.normal(size=(5 + index, 2)).astype("f4"), "spans": np.arange(index, dtype=np.int16)}

    def describe(self, index):
        return f"recording {index}"


def test_sides_that_vary_groups_and_a_subset(tmp_path):
    dataset = Dataset("here", {"all": Subset(Ragged(), np.array([2, 0, 1]))}, ("a", "b"))
    write_dataset(dataset, tmp_path / "x")
    copy = load_dataset(f"array_record:{tmp_path}/x").splits["all"]
    assert groups_of(copy).tolist() == [7, 7, 8]
    assert copy.describe(0) == f"index 0 of split 'all' of {tmp_path}/x (recording 2)"
    for index, whole in enumerate((2, 0, 1)):
        for name, value in Ragged()[whole].items():
            np.testing.assert_array_equal(copy[index][name], value)
    assert copy.spec == Ragged().spec


def test_an_example_that_is_not_what_its_source_says_is_refused(tmp_path):
    class Wrong(Ragged):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "spans": np.zeros((2, 2), np.int16)}

    dataset = Dataset("here", {"all": Wrong()}, ("a", "b"))
    with pytest.raises(DataError, match=r"recording 0: spans is int16 \(2, 2\), but the source says int16 \(None,\)"):
        write_dataset(dataset, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_moved_file_opens_and_threads_and_pickles_read_the_same(pictures, tmp_path):
    convert(f"folder:{pictures}", tmp_path / "x.array_record", threads=1)
    convert(f"folder:{pictures}", tmp_path / "y.array_record", threads=5)
    assert (tmp_path / "x.array_record").read_bytes() == (tmp_path / "y.array_record").read_bytes()
    shutil.rmtree(pictures)
    (tmp_path / "deep er").mkdir()
    moved = tmp_path / "deep er" / "no suffix é"
    (tmp_path / "x.array_record").rename(moved)
    records = load_dataset(f"array_record:{moved}").splits["train"]
    expected = [records[i]["image"] for i in range(73)]
    again = pickle.loads(pickle.dumps(records))
    with ThreadPoolExecutor(8) as pool:
        for reader in (records, again):
            for i, image in enumerate(pool.map(reader.image, list(range(73)) * 6)):
                np.testing.assert_array_equal(image, expected[i % 73])
    moved.unlink()  # a file that is open stays readable; a process that opens it anew says that it is gone
    np.testing.assert_array_equal(records[5]["image"], expected[5])
    with pytest.raises(DataError, match=r"no suffix é: cannot read it \(No such file"):
        pickle.loads(pickle.dumps(records)).image(0)


def test_the_same_bytes_as_the_library_reads(pictures, tmp_path):
    convert(f"folder:{pictures}", tmp_path / "x")
    file, reader = RecordFile(tmp_path / "x"), ArrayRecordReader(str(tmp_path / "x"))
    assert [file[i] for i in range(len(file))] == reader.read_all()
    with pytest.raises(IndexError):
        file[len(file)]
    file.close()
    assert file[0] == reader.read([0])[0]


def test_every_damaged_byte_is_noticed_or_harmless(make_folder, tmp_path):
    root = make_folder({"set/ant": 2, "set/bee": 2}) / "set"
    whole, broken = tmp_path / "x", tmp_path / "broken"
    convert(f"folder:{root}", whole)
    data, said = whole.read_bytes(), set()
    expected = load_dataset(f"array_record:{whole}")
    for place in np.flatnonzero(np.frombuffer(data, np.uint8))[::9]:  # what is zero pads blocks
        broken.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])
        try:
            same(expected, load_dataset(f"array_record:{broken}"))
        except DataError as error:
            said.update(kind for kind in ("is damaged", "no whole ArrayRecord") if kind in str(error))
            assert str(broken) in str(error)  # noqa: PT017 - most damage is, some is not noticed
    assert said == {"is damaged", "no whole ArrayRecord"}


def test_a_file_cut_in_half_or_empty_or_of_another_kind(pictures, tmp_path):
    whole = tmp_path / "x"
    convert(f"folder:{pictures}", whole)
    data = whole.read_bytes()
    for count in (0, 1, 1000, len(data) // 2, len(data) - 1):
        whole.write_bytes(data[:count])
        with pytest.raises(DataError, match=rf"x: these {count:,} bytes are no whole ArrayRecord file: cut short"):
            load_dataset(f"array_record:{whole}")
    with pytest.raises(DataError, match=r"gone: cannot read it \(No such file or directory\)"):
        load_dataset(f"array_record:{tmp_path}/gone")
    with pytest.raises(DataError, match=r"this is a folder; name one file"):
        load_dataset(f"array_record:{tmp_path}")


def records_file(path: Path, *records: bytes) -> Path:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def test_a_foreign_file_and_a_broken_header(make_folder, tmp_path):
    foreign = records_file(tmp_path / "foreign", b"abc", b"def")
    with pytest.raises(DataError, match=r"foreign: this is an ArrayRecord file, but its last record is no header"):
        load_dataset(f"array_record:{foreign}")
    with pytest.raises(DataError, match="has no records"):
        load_dataset(f"array_record:{records_file(tmp_path / 'none')}")
    root = make_folder({"set/ant": 2, "set/bee": 2}) / "set"
    convert(f"folder:{root}", tmp_path / "x")
    *records, last = ArrayRecordReader(str(tmp_path / "x")).read_all()
    header = json.loads(last[len(MAGIC) :])

    def altered(**changes) -> str:
        changed = {**header, **changes}
        return f"array_record:{records_file(tmp_path / 'y', *records, MAGIC + json.dumps(changed).encode())}"

    same(load_dataset(f"folder:{root}"), load_dataset(altered()))
    split = header["splits"][0]
    bad = {**split["fields"][0]["field"], "dtype": "object"}
    for changes, message in {
        json.dumps({"version": 2}): "written by a later version of resnet-jax",
        json.dumps({"kind": "magic"}): "the header in its last record is broken",
        json.dumps({"splits": 3}): "the header in its last record is broken",
        json.dumps({"splits": [{**split, "count": 3}]}): "4 labels of 3 examples",
        json.dumps({"splits": [{**split, "count": 0, "labels": 0}]}): r"the labels of .*cannot read it as an array",
        **{
            json.dumps({"splits": [{**split, **wrong}]}): "the header speaks of other records than the 6 of the file"
            for wrong in ({"count": 10**9}, {"count": -4}, {"labels": 5}, {"labels": -1}, {"groups": 900})
        },
        json.dumps({"splits": [{**split, "fields": [{**split["fields"][0], "field": bad}]}]}): "'image' is object",
        json.dumps({"class_names": ["ant"]}): "need at least two",
    }.items():
        with pytest.raises(DataError, match=message):
            load_dataset(altered(**json.loads(changes)))
    records[0] = records[0][:20]
    with pytest.raises(DataError, match=r"index 0 of split 'all' of .*: the record is not what the header says"):
        load_dataset(altered()).splits["all"].image(0)


def test_labels_are_read_without_the_examples(pictures, tmp_path, monkeypatch):
    convert(f"folder:{pictures}", tmp_path / "x")
    read = []
    get = RecordFile.__getitem__
    monkeypatch.setattr(RecordFile, "__getitem__", lambda self, number: (read.append(number), get(self, number))[1])
    load_dataset(f"array_record:{tmp_path}/x")
    assert read == [78, 76, 77]


def test_no_python_objects_are_stored(tmp_path):
    records = ArrayRecords(np.zeros((2, 4, 4), np.uint8), np.arange(2))
    object.__setattr__(records, "groups", np.array([object(), None]))
    with pytest.raises(DataError, match=r"object \(2,\) cannot be stored"):
        write_dataset(Dataset("here", {"all": records}, ("a", "b")), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
