"""Series of the UCR and UEA archives: numbers, classes, lengths, and every way in which a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.errors import DataError

HEAD = """# a comment
@problemName Two
@timeStamps false
@univariate {uni}
@equalLength {equal}
@classLabel true b a
@data
"""


def write(path: Path, cases: str, uni: str = "true", equal: str = "true", head: str = HEAD) -> Path:
    path.write_text(head.format(uni=uni, equal=equal) + cases)
    return path


def test_numbers_classes_and_splits(tmp_path):
    write(tmp_path / "Two_TRAIN.ts", "1,2,3:a\n-0.5,0,1e-3:b\n")
    write(tmp_path / "Two_TEST.ts", "0,0,1:a\n")
    data = load_dataset(f"ucr:{tmp_path}")
    train = data.splits["train"]
    assert data.class_names == ("b", "a")  # in the header's order
    assert train.labels.tolist() == [1, 0]
    assert train.spec["image"].meaning == "signal"
    np.testing.assert_array_equal(train[1]["image"], np.array([[-0.5], [0], [1e-3]], np.float32))
    assert data.origins == {"train": "Two_TRAIN.ts", "test": "Two_TEST.ts"}


def test_dimensions_are_channels(tmp_path):
    file = write(tmp_path / "x.ts", "1,2,3:4,5,6:a\n7,8,9:1,1,1:b\n", uni="false")
    records = load_dataset(f"ucr:{file}").splits["all"]
    assert records[0]["image"].tolist() == [[1, 4], [2, 5], [3, 6]]


def test_unequal_lengths_end_in_zeros_or_are_cut_and_it_is_said(tmp_path):
    file = write(tmp_path / "x.ts", "1,2,3,4:a\n1,2:b\n1,2,3,?:b\n", equal="false")
    data = load_dataset(f"ucr:{file}")
    assert [data.splits["all"][i]["image"][:, 0].tolist() for i in range(3)] == [
        [1, 2, 3, 4],
        [1, 2, 0, 0],
        [1, 2, 3, 0],
    ]
    assert "2 end in zeros of 3" in data.notes[0]
    assert data.notes[1] == "1 series end in missing values, which are taken for their end"
    cut = load_dataset(f"ucr:{file}", signal_length=3)
    assert cut.splits["all"].spec["image"].shape == (3, 1)
    assert "1 end in zeros and 1 lose their end of 3" in cut.notes[0]


def test_tsv_has_the_class_first(tmp_path):
    (tmp_path / "X_TRAIN.tsv").write_text("10\t1.5\t2\n2\t3\t4\n")
    (tmp_path / "X_TEST.tsv").write_text("2\t1\tNaN\n")
    data = load_dataset(f"ucr:{tmp_path}")
    assert data.class_names == ("2", "10")  # as numbers
    assert data.splits["train"].labels.tolist() == [1, 0]
    assert data.splits["test"][0]["image"][:, 0].tolist() == [1, 0]


def test_target_labels_are_values(tmp_path):
    head = "@problemName R\n@univariate true\n@targetLabel true\n@data\n"
    data = load_dataset(f"ucr:{write(tmp_path / 'r.ts', '1,2:0.5', head=head)}")
    assert (data.kind, data.splits["all"].labels.tolist()) == ("value", [0.5])


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ("1,?,3:a\n", r"line 8: 1 values are missing, the first at place 2 of dimension 1"),
        ("1,2,3:c\n", r"line 8: class 'c' is none of @classLabel \(b, a\)"),
        ("1,2,3\n", "line 8: no colon, so no class"),
        ("1,2,3:\n", "line 8: the series has no class"),
        ("1,x,3:a\n", "line 8: could not convert string to float: 'x'"),
        ("1,inf,3:a\n", "line 8: infinite values"),
        ("?,?:a\n", "line 8: the series has no values"),
        ("1,2,3:a\n1,2:b\n", "@equalLength true, but series have 2 to 3 values"),
        ("1,2:1,2:a\n", "@univariate true, but the cases have 2 dimensions"),
        ("1,2:1:a\n", "dimensions of 1 to 2 values; a case needs one length"),
        ("1,2:a\n1,2:3,4:b\n", "line 9: 2 dimensions, but line 8 has 1"),
        ("", "there are no series in it"),
    ],
)
def test_a_wrong_case_is_named_with_its_line(tmp_path, cases, message):
    file = write(tmp_path / "x.ts", cases)
    with pytest.raises(DataError, match=message) as raised:
        load_dataset(f"ucr:{file}")
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("@problemName x\n@timeStamps true\n@classLabel true a\n@data\n", "series with time stamps are not read"),
        ("@problemName x\n@classLabel false\n@data\n", "neither @classLabel true nor @targetLabel true"),
        ("@nonsense x\n@data\n", "unknown header @nonsense"),
        ("@classLabel true a\n", "no line @data|stands before @data"),
        ("@classLabel true a\n@seriesLength 5\n@data\n", "2 values, but @seriesLength is 5"),
        ("@classLabel true a\n@dimensions 3\n@data\n", "@dimensions 3, but the cases have 1"),
    ],
)
def test_a_wrong_header_is_named(tmp_path, head, message):
    with pytest.raises(DataError, match=message):
        load_dataset(f"ucr:{write(tmp_path / 'x.ts', '1,2:a', head=head)}")


def test_where_there_is_nothing_it_says_what_would_be(tmp_path):
    with pytest.raises(DataError, match=r"need a folder with NAME_TRAIN\.ts"):
        load_dataset(f"ucr:{tmp_path}")
    write(tmp_path / "Two_TRAIN.ts", "1:a\n")
    with pytest.raises(DataError, match=r"has no Two_TEST\.ts beside it"):
        load_dataset(f"ucr:{tmp_path}")
    write(tmp_path / "Two_TEST.ts", "1:1:a\n", uni="false")
    with pytest.raises(DataError, match="2 dimensions than in"):
        load_dataset(f"ucr:{tmp_path}")
    write(tmp_path / "Three_TRAIN.ts", "1:a\n")
    with pytest.raises(DataError, match="are several problems"):
        load_dataset(f"ucr:{tmp_path}")


def test_the_sets_of_the_archive(unpacked):
    root = unpacked("timeseries") / "timeseries"
    sizes = {"GunPoint": (50, 150, 150, 2), "ArrowHead": (36, 175, 251, 3), "OSULeaf": (200, 242, 427, 6)}
    for name, (train, test, length, classes) in sizes.items():
        data = load_dataset(f"ucr:{root / name}")
        found = (len(data.splits["train"]), len(data.splits["test"]), data.splits["train"].spec["image"].shape[0])
        assert (*found, data.num_classes) == (train, test, length, classes)
    first = (root / "GunPoint" / "GunPoint_TRAIN.ts").read_text().split("@data\n")[1].split("\n")[0].split(":")[0]
    values = load_dataset(f"ucr:{root / 'GunPoint'}").splits["train"][0]["image"][:, 0]
    np.testing.assert_array_equal(values, np.array(first.split(","), np.float64).astype(np.float32))
