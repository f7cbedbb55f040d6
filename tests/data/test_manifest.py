from __future__ import annotations

import json
import time

import cv2
import numpy as np
import pytest

from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.source import load_dataset
from resnet_jax.data.split import resolve_splits
from resnet_jax.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 65536, (4, 5, 6, 3), np.uint16)


@pytest.fixture
def folder(tmp_path):
    """Four 16-bit PNGs, one signal, one empty file."""
    (tmp_path / "img").mkdir()
    for number, pixels in enumerate(PIXELS):
        (tmp_path / f"img/{number}.png").write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
    np.save(tmp_path / "signal.npy", np.linspace(0, 1, 30))
    (tmp_path / "empty.png").touch()
    return tmp_path


def table(folder, text, name="table.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding)
    return f"manifest:{folder / name}"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_classes_are_sorted_and_paths_are_relative_to_the_table(folder, encoding):
    text = 'path,label,note\nimg/0.png,zebra,"a, b"\nimg/1.png,ähre,\n' + f"{folder}/img/2.png,zebra,c\n"
    data = load_dataset(table(folder, text, encoding=encoding))
    assert (data.kind, data.class_names, data.notes) == ("class", ("zebra", "ähre"), ("columns left out: note",))
    records = data.splits["all"]
    assert records.labels.tolist() == [0, 1, 0]
    assert records.describe(2) == str(folder / "img/2.png")
    np.testing.assert_array_equal(records[1]["image"], (PIXELS[1] >> 8).astype(np.uint8))
    numbers = load_dataset(table(folder, "path,label\nimg/0.png,10\nimg/1.png,9\n"))
    assert numbers.class_names == ("9", "10")


def test_sixteen_bits_are_read_without_loss_where_it_is_asked_for(folder):
    spec = table(folder, "path,label\n" + "".join(f"img/{i}.png,{i % 2}\n" for i in range(4)))
    records = load_dataset(spec, pixels="stored").splits["all"]
    assert records.spec["image"].dtype == "uint16"
    batch = TrainBatches(records, 4, seed=0).batch(0)
    np.testing.assert_array_equal(batch["image"], PIXELS[batch["index"]])
    grey = load_dataset(spec, pixels="stored", channels=1).splits["all"][0]["image"]
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[..., 0], PIXELS[0] @ weights, atol=0.51)
    (folder / "by_class/a").mkdir(parents=True)
    (folder / "by_class/b").mkdir()
    deep = np.float32(PIXELS[0, ..., 0]) / 7
    (folder / "by_class/a/1.tiff").write_bytes(cv2.imencode(".tiff", deep)[1].tobytes())
    (folder / "by_class/b/1.tiff").write_bytes(cv2.imencode(".tiff", deep)[1].tobytes())
    stored = load_dataset(f"folder:{folder}/by_class", pixels="stored").splits["all"]
    np.testing.assert_array_equal(stored[0]["image"][..., 0], deep)


def test_several_labels_values_splits_and_arrays(folder):
    data = load_dataset(table(folder, "path,labels\nimg/0.png,cat; dog\nimg/1.png,\nimg/2.png,dog\n"))
    assert (data.kind, data.class_names) == ("multi-label", ("cat", "dog"))
    assert data.splits["all"].labels.tolist() == [[1, 1], [0, 0], [0, 1]]
    data = load_dataset(
        table(folder, "path\tvalue_age\tvalue_mass\tsplit\nimg/0.png\t1\t.5\ttrain\nimg/1.png\t2\t1e2\tTest\n", "t.tsv")
    )
    assert (data.kind, data.class_names, list(data.splits)) == ("value", ("age", "mass"), ["train", "test"])
    assert data.splits["test"].labels.tolist() == [[2, 100]]
    signal = load_dataset(table(folder, "path,value\nsignal.npy,3\nsignal.npy,3\n"))
    assert signal.splits["all"].spec["image"].meaning == "signal"
    assert signal.splits["all"][0]["image"].shape == (30, 1)
    assert signal.notes == ("1 rows name a file that another row of the same split names too",)


def test_json_lines_are_the_same(folder):
    rows = [{"path": f"img/{i}.png", "labels": ["a", "b"][: i + 1], "more": i} for i in range(3)]
    data = load_dataset(table(folder, "\n".join(map(json.dumps, rows)) + "\n\n", "t.jsonl"))
    assert (data.kind, data.class_names, data.notes) == ("multi-label", ("a", "b"), ("columns left out: more",))
    number = load_dataset(table(folder, '{"path": "img/0.png", "value": 1.5}\n', "t.txt"))
    assert number.splits["all"].labels.tolist() == [[1.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\nimg/0.png,a\nimg/9.png,b\n,c\nimg/1.png,\n", r"3 of 4 rows are wrong: line 3: there is no file .*"
         r"img/9\.png; line 4: path is empty; line 5: label is empty"),
        ("path,label\nimg/0.png,a,b\nimg/0.png\nempty.png,a\nimg,a\n", "line 2: more cells than columns: .*; line 3: "
         r"no label; line 4: .* is empty \(0 bytes\); line 5: .*img is no file"),
        ("path,value\nimg/0.png,much\nimg/1.png,nan\n", "value is 'much', which is no number; line 3: value is nan"),
        ("path,label,split\nimg/0.png,a,train\nimg/1.png,b,\n", "line 3: split is ''; need train, val or test"),
        ("path,label,split\nimg/0.png,a,train\nimg/0.png,b,test\n", r"is in train \(line 2\) and in test \(line 3\)"),
        ("file,label\n", "no column path; found file, label; call 'file' path"),
        ("path,label,value\n", "found label and value among"),
        ("path,size\n", "found no labels among the columns path, size; need the columns"),
        ("path,label\n", "there are no rows"),
        ("", "no column path; found none"),
        ('path,label\n"img/0.png,a\n', "cannot read it as a table"),
        ('{"path": 1\n', "line 1 is no JSON"),
        ('{"path": "img/0.png", "labels": [1.5]}\n', "line 1: labels is .*need a list of texts"),
        ('{"path": {}, "label": true}\n[1]\n', "line 2 is a list; need one JSON object a line"),
        ('{"path": "img/0.png", "label": true}\n', "line 1: label is True; need a text or a number"),
    ],
)  # fmt: skip
def test_every_wrong_row_is_named_with_its_line(folder, text, message):
    with pytest.raises(DataError, match=message):
        load_dataset(table(folder, text))


def test_other_text_than_utf_8_and_other_places_are_said(folder):
    (folder / "t.csv").write_bytes("path,label\nä,b\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not text in UTF-8 \(byte 11 is 0xe4\)"):
        load_dataset(f"manifest:{folder}/t.csv")
    with pytest.raises(DataError, match="this is a folder and no table"):
        load_dataset(f"manifest:{folder}")
    with pytest.raises(DataError, match="there is no such file"):
        load_dataset(f"manifest:{folder}/gone.csv")


def test_a_broken_array_is_named(folder):
    (folder / "bad.npy").write_bytes((folder / "signal.npy").read_bytes()[:150])
    records = load_dataset(table(folder, "path,value\nbad.npy,1\n")).splits["all"]
    with pytest.raises(DataError, match=r"bad\.npy: cannot read it as \.npy"):
        records[0]


def test_twenty_thousand_rows_are_read_in_a_second_or_so(folder):
    spec = table(folder, "path,label\n" + "".join(f"img/{i % 4}.png,{i % 7}\n" for i in range(20_000)))
    start = time.perf_counter()
    data = load_dataset(spec)
    assert time.perf_counter() - start < 20
    assert len(resolve_splits(data).train) == 14_000
