from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.data import idx
from resnet_jax.data.source import load_dataset
from resnet_jax.errors import DataError

RNG = np.random.default_rng(0)


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # the same in every process: names of tests have it in them


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def put(root: Path, prefix: str = "", test: str = "t10k", suffix: str = "", dot: str = "-", labels=None):
    """Write a set of 6 training and 4 test images; return it."""
    root.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, count in (("train", 6), (test, 4)):
        images = RNG.integers(0, 256, (count, 7, 5), np.uint8)
        numbers = np.array((labels or [0, 1, 2, 3, 2, 1])[:count], np.uint8)
        for what, array in (("images", images), ("labels", numbers)):
            data = idx_bytes(array)
            path = root / f"{prefix}{name}-{what}{dot}idx{array.ndim}-ubyte{suffix}"
            path.write_bytes(packed(data) if suffix else data)
        written["train" if name == "train" else "test"] = images, numbers
    return written


@pytest.mark.parametrize(
    "names", [{}, {"suffix": ".gz"}, {"dot": "."}, {"test": "test"}, {"prefix": "emnist-digits-", "suffix": ".gz"}]
)
def test_pairs_under_all_their_names(tmp_path, names):
    written = put(tmp_path, **names)
    dataset = load_dataset(f"mnist:{tmp_path}")
    assert dataset.class_names == ("0", "1", "2", "3")
    for split, (images, labels) in written.items():
        records = dataset.splits[split]
        np.testing.assert_array_equal(records.images[..., 0], images)
        assert records.labels.tolist() == labels.tolist()
    assert load_dataset(f"mnist:{tmp_path}", channels=3).splits["test"][0]["image"].shape == (7, 5, 3)
    exchanged = [note for note in dataset.notes if "rows and columns exchanged" in note]
    assert len(exchanged) == ("prefix" in names)


def test_a_list_names_the_classes(tmp_path):
    put(tmp_path / "set")
    (tmp_path / "names.txt").write_text("T-shirt/top\nTrouser\nPullover\nDress\n")
    wanted = {"class_list": str(tmp_path / "names.txt")}
    assert load_dataset(f"mnist:{tmp_path}/set", **wanted).class_names == (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
    )
    (tmp_path / "names.txt").write_text("T-shirt/top\nTrouser\n")
    with pytest.raises(DataError, match=r"names\.txt: 2 lines, and there are 4 classes"):
        load_dataset(f"mnist:{tmp_path}/set", **wanted)


def test_of_several_sets_one_is_named(tmp_path):
    put(tmp_path, "emnist-letters-", labels=[1, 2, 3, 3, 2, 1])
    put(tmp_path, "emnist-digits-")
    with pytest.raises(DataError, match="the sets emnist-digits, emnist-letters are in it; name one: mnist:"):
        load_dataset(f"mnist:{tmp_path}")
    with pytest.raises(DataError, match="no set 'balanced' in it; there are 'emnist-digits', 'emnist-letters'"):
        load_dataset(f"mnist:{tmp_path}@balanced")
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98 \n3 67 99\n")
    for name in ("letters", "emnist-letters"):
        dataset = load_dataset(f"mnist:{tmp_path}@{name}")
        assert dataset.class_names == ("A", "B", "C")
        assert dataset.splits["test"].labels.tolist() == [0, 1, 2, 2]
        assert (
            dataset.notes[0] == "labels begin at 1: they are counted from 0, as emnist-letters-mapping.txt names them"
        )
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n")
    with pytest.raises(DataError, match="it does not name the labels 3 of train"):
        load_dataset(f"mnist:{tmp_path}@letters")


def test_without_a_test_pair_all_is_one_split(tmp_path):
    put(tmp_path)
    for file in tmp_path.glob("t10k-*"):
        file.unlink()
    dataset = load_dataset(f"mnist:{tmp_path}")
    assert set(dataset.splits) == {"all"}
    assert dataset.notes == ("only the train files are there: they are divided here",)


def test_beside_an_unpacked_file_its_archive_is_passed_over(tmp_path):
    written = put(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"anything")
    images = load_dataset(f"mnist:{tmp_path}").splits["train"].images
    np.testing.assert_array_equal(images[..., 0], written["train"][0])


IMAGES = idx_bytes(np.zeros((6, 7, 5), np.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (IMAGES[:-1], "says 210 bytes, which it cannot hold: it is cut short"),
        (packed(IMAGES[:-1]), "says 210 bytes, and it is cut short"),
        (packed(IMAGES)[:-12], "cannot read it|cut short"),
        (IMAGES + b"\0", "says 210 bytes, and there is more in it"),
        (packed(IMAGES + b"\0"), "and there is more in it"),
        (idx_bytes(np.zeros(6, np.uint8)) + bytes(99), r"type 0x08 and 1 sides; need bytes \(0x08\) and 3: images"),
        (b"\0\0\x0d\x03" + IMAGES[4:], "type 0x0d and 3 sides"),
        (b"<html>", "this is no IDX file; it begins with 3c 68 74 6d"),
        (b"", "this is no IDX file; it begins with nothing"),
        (b"\0\0\x08\x03" + struct.pack(">III", 60_000, 2**16, 2**16), "at most 1,073,741,824 are read"),
        (packed(b"\0\0\x08\x03" + struct.pack(">III", 1000, 1000, 1000)), "which it cannot hold"),
        (idx_bytes(np.zeros((5, 7, 5), np.uint8)), "5 images in .* and 6 labels in"),
        (idx_bytes(np.zeros((6, 5, 7), np.uint8)), "training and test images have other sizes"),
    ],
)
def test_files_that_are_damaged_or_do_not_fit_are_named(tmp_path, data, message):
    put(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(DataError, match=message):
        load_dataset(f"mnist:{tmp_path}")


def test_what_unpacks_beyond_its_header_is_not_unpacked(tmp_path, monkeypatch):
    put(tmp_path)
    bomb = packed(IMAGES + bytes(1 << 26))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(bomb)
    read = []
    opened = gzip.open

    def counting(*arguments):
        file = opened(*arguments)
        inner = file.read
        file.read = lambda size=-1: read.append(len(part := inner(size))) or part
        return file

    monkeypatch.setattr(idx.gzip, "open", counting)
    with pytest.raises(DataError, match="there is more in it"):
        load_dataset(f"mnist:{tmp_path}")
    assert sum(read) < 1000


def test_places_that_are_none_say_what_is_needed(tmp_path):
    with pytest.raises(DataError, match="no IDX files in it; need train-images-idx3-ubyte"):
        load_dataset(f"mnist:{tmp_path}")
    with pytest.raises(DataError, match="there is no such folder"):
        load_dataset(f"mnist:{tmp_path}/gone")
    put(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is there without its labels"):
        load_dataset(f"mnist:{tmp_path}")


def test_a_path_alone_is_recognised(tmp_path):
    from resnet_jax.data.look import look_at

    put(tmp_path)
    found = look_at(str(tmp_path))
    assert (found.source, found.shapes[0]) == (f"mnist:{tmp_path}", (7, 5, 1))
