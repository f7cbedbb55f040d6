"""Archives made on the spot, pickled as Python 2 pickled the published ones, opcode by opcode."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.data import published
from resnet_jax.data.cifar import VERSIONS
from resnet_jax.data.plain_arrays import load_plain_arrays
from resnet_jax.data.source import load_dataset
from resnet_jax.errors import DataError, UsageError

RNG = np.random.default_rng(0)
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def text(value: str) -> bytes:
    return b"U" + bytes([len(value)]) + value.encode()


def whole(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)


def python_2(value) -> bytes:
    """Pickle a dictionary of lists, texts, numbers and one array as cPickle of Python 2 does, protocol 2."""
    if isinstance(value, dict):
        return b"}(" + b"".join(text(key) + python_2(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(python_2, value)) + b"e"
    if isinstance(value, np.ndarray):
        rows, columns = value.shape
        start = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t(K\x01"
        dtype = b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        data = b"T" + struct.pack("<I", value.size) + value.tobytes()
        return start + whole(rows) + whole(columns) + b"\x86" + dtype + b"\x89" + data + b"tb"
    return text(value) if isinstance(value, str) else whole(value)


def pickled(value) -> bytes:
    return b"\x80\x02" + python_2(value) + b"."


def images(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3072), np.uint8)


def cifar10(root: Path) -> dict[str, tuple[np.ndarray, list[int]]]:
    root.mkdir(parents=True, exist_ok=True)
    (root / "batches.meta").write_bytes(pickled({"num_cases_per_batch": 3, "label_names": NAMES, "num_vis": 3072}))
    written = {}
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        written[name] = images(3), RNG.integers(0, 10, 3).tolist()
        found = {"batch_label": name, "labels": written[name][1], "data": written[name][0], "filenames": ["a.png"] * 3}
        (root / name).write_bytes(pickled(found))
    (root / "readme.html").write_text("text")
    return written


def cifar100(root: Path) -> dict[str, tuple[np.ndarray, list[int], list[int]]]:
    root.mkdir(parents=True, exist_ok=True)
    names = {"fine_label_names": [f"fine{n}" for n in range(100)], "coarse_label_names": [f"c{n}" for n in range(20)]}
    (root / "meta").write_bytes(pickled(names))
    written = {}
    for name in ("train", "test"):
        fine = RNG.integers(0, 100, 4).tolist()
        written[name] = images(4), fine, [label // 5 for label in fine]
        found = {"fine_labels": fine, "coarse_labels": written[name][2], "data": written[name][0]}
        (root / name).write_bytes(pickled(found))
    return written


def packed(folder: Path, mode: str = "w:gz") -> Path:
    path = folder.parent / f"{folder.name}.tar.gz"
    with tarfile.open(path, mode) as archive:
        archive.add(folder, folder.name)
    return path


def as_image(row: np.ndarray) -> np.ndarray:
    return row.reshape(3, 32, 32).transpose(1, 2, 0)


@pytest.mark.parametrize("given", ["folder", "above", "archive", "plain tar"])
def test_cifar10_for_python(tmp_path, given):
    folder = tmp_path / "cifar-10-batches-py"
    written = cifar10(folder)
    place = {"folder": folder, "above": tmp_path}.get(given) or packed(folder, "w:gz" if given == "archive" else "w")
    dataset = load_dataset(f"cifar:{place}")
    assert dataset.class_names == tuple(NAMES)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.labels.tolist() == [label for n in range(1, 6) for label in written[f"data_batch_{n}"][1]]
    np.testing.assert_array_equal(train[4]["image"], as_image(written["data_batch_2"][0][1]))
    np.testing.assert_array_equal(test[2]["image"], as_image(written["test_batch"][0][2]))
    assert dataset.notes == ("15 training and 3 test images; CIFAR-10 has 50,000 and 10,000",)
    assert load_dataset(f"cifar:{place}", channels=1).splits["test"][0]["image"].shape == (32, 32, 1)
    with pytest.raises(UsageError, match="only CIFAR-100 has coarse labels"):
        load_dataset(f"cifar:{place}@coarse")


def test_cifar100_has_fine_and_coarse_labels(tmp_path):
    written = cifar100(tmp_path / "cifar-100-python")
    for place in (tmp_path, packed(tmp_path / "cifar-100-python")):
        fine, coarse = (load_dataset(f"cifar:{place}{ending}") for ending in ("", "@coarse"))
        assert (fine.num_classes, coarse.num_classes) == (100, 20)
        assert fine.splits["test"].labels.tolist() == written["test"][1]
        assert coarse.splits["train"].labels.tolist() == written["train"][2]
        np.testing.assert_array_equal(coarse.splits["train"][3]["image"], as_image(written["train"][0][3]))


def test_the_binary_versions(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    for name in (*VERSIONS[False][1].train, "test_batch.bin"):
        (folder / name).write_bytes(b"".join(bytes([n]) + images(1).tobytes() for n in (3, 9)))
    dataset = load_dataset(f"cifar:{packed(folder)}")
    assert dataset.class_names == tuple(NAMES)
    assert dataset.splits["train"].labels.tolist() == [3, 9] * 5
    raw = (folder / "test_batch.bin").read_bytes()
    np.testing.assert_array_equal(dataset.splits["test"][1]["image"], as_image(np.frombuffer(raw[-3072:], np.uint8)))

    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "fine_label_names.txt").write_text("\n".join(f"f{n}" for n in range(100)))
    (folder / "coarse_label_names.txt").write_text("\n".join(f"c{n}" for n in range(20)))
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(b"".join(bytes([n // 5, n]) + images(1).tobytes() for n in (7, 99)))
    assert load_dataset(f"cifar:{folder}").splits["test"].labels.tolist() == [7, 99]
    assert load_dataset(f"cifar:{folder}@coarse").splits["test"].labels.tolist() == [1, 19]
    with pytest.raises(DataError, match=r"cifar-10-batches-bin, cifar-100-binary|cifar-100-binary, cifar-10"):
        load_dataset(f"cifar:{tmp_path}")
    (folder / "test.bin").write_bytes(bytes(5000))
    with pytest.raises(DataError, match=r"test\.bin: 5,000 bytes, and an image with its labels has 3,074"):
        load_dataset(f"cifar:{folder}")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_hostile_pickle_is_refused_and_nothing_of_it_is_run(tmp_path, protocol):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/run",)

    folder = tmp_path / "cifar-10-batches-py"
    cifar10(folder)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Payload(), "labels": [1]}, protocol))
    for place in (folder, packed(folder)):
        with pytest.raises(
            DataError, match=r"data_batch_3: this pickle .*: refusing the global posix\.system; nothing of"
        ):
            load_dataset(f"cifar:{place}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_newer_pythons_pickle_is_read_too(protocol):
    value = {"data": np.arange(12, dtype=">i4").reshape(3, 4), "f": np.asfortranarray(np.eye(3, 2, dtype=np.float32))}
    if protocol == 5:
        with pytest.raises(DataError, match=r"refusing the global numpy\._core\.numeric\._frombuffer"):
            load_plain_arrays(pickle.dumps(value, protocol), "f")
        return
    found = load_plain_arrays(pickle.dumps(value, protocol), "f")
    for name, array in value.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([print], object), "plain numbers"),
        (np.array(["2020"], "M8[Y]"), "plain numbers"),
        (np.zeros(2, [("a", "i4")]), "plain numbers"),
        (np.float64, "refusing the global numpy.float64"),
        (np.dtype("u1"), "a name where a value should be"),
        (np.ndarray, "a name where a value should be"),
        ({1, 2}, "not allowed|refusing"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(value, message):
    with pytest.raises(DataError, match=f"this pickle is not read: .*({message})"):
        load_plain_arrays(pickle.dumps({"data": value}, 2), "f")


def test_pickles_cut_anywhere_are_refused():
    data = pickled({"labels": [1, 2], "data": images(2)[:, :40]})
    for cut in range(len(data)):
        with pytest.raises(DataError, match="f: this pickle is not read"):
            load_plain_arrays(data[:cut], "f")
    lying = data.replace(b"K\x28\x86", b"K\x29\x86")
    with pytest.raises(DataError, match=r"an array of shape \(2, 41\) with 80 bytes"):
        load_plain_arrays(lying, "f")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [1, 2, 10]}, "labels from 1 to 10; CIFAR-10 has 0 to 9"),
        ({"labels": [1, 2]}, r"3 images and labels of shape \(2,\)"),
        ({"labels": ["a", "b", "c"]}, "its labels are no numbers"),
        ({"data": images(3)[:, :100]}, r"'data' is not uint8 \(N, 3,072\)"),
        ({"data": "text"}, "'data' is not uint8"),
    ],
)
def test_batches_that_do_not_fit_are_named(tmp_path, change, message):
    cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickled({"labels": [1, 2, 3], "data": images(3), **change}))
    with pytest.raises(DataError, match=f"test_batch: {message}"):
        load_dataset(f"cifar:{tmp_path}")


def test_places_that_are_no_archive_say_what_is_needed(tmp_path):
    with pytest.raises(DataError, match="no files of CIFAR here; need an archive as it is downloaded"):
        load_dataset(f"cifar:{tmp_path}")
    with pytest.raises(DataError, match="there is no such file or folder"):
        load_dataset(f"cifar:{tmp_path}/gone")
    cifar10(tmp_path)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 of CIFAR-10 is missing"):
        load_dataset(f"cifar:{tmp_path}")
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot read it as a tar archive"):
        load_dataset(f"cifar:{tmp_path}/x.tar.gz")


def test_archives_cut_short_or_with_links_or_too_large_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    cifar10(folder)
    data = packed(folder).read_bytes()
    for cut in (20, len(data) // 2, len(data) - 9):
        (tmp_path / "cut.tar.gz").write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"cut\.tar\.gz"):
            load_dataset(f"cifar:{tmp_path}/cut.tar.gz")
    flipped = data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]  # the checksum of all
    (tmp_path / "flipped.tar.gz").write_bytes(flipped)
    with pytest.raises(DataError, match="CRC check failed"):
        load_dataset(f"cifar:{tmp_path}/flipped.tar.gz")
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        link = tarfile.TarInfo("x/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="x/test_batch is no file but a link or device, which is not followed"):
        load_dataset(f"cifar:{tmp_path}/link.tar")
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for name in ("a/meta", "b/meta"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match="two files are called meta"):
        load_dataset(f"cifar:{tmp_path}/twice.tar")
    monkeypatch.setattr(published, "MOST_BYTES", 10_000)
    for place in (folder, packed(folder)):
        with pytest.raises(DataError, match="no such archive"):
            load_dataset(f"cifar:{place}")


def test_the_lossless_images_of_cifar10_come_back_exactly(shared_data, tmp_path):
    with np.load(shared_data / "cifar10-test-lossless-1017.npz") as file:
        x, y = file["x"], file["y"]
    cifar10(tmp_path)
    rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    (tmp_path / "test_batch").write_bytes(pickled({"labels": y.tolist(), "data": np.ascontiguousarray(rows)}))
    test = load_dataset(f"cifar:{tmp_path}").splits["test"]
    assert test.labels.tolist() == y.tolist()
    np.testing.assert_array_equal(test.images, x)


def test_a_path_alone_is_recognised(tmp_path):
    from resnet_jax.data.look import look_at, source_of

    cifar10(tmp_path / "cifar-10-batches-py")
    archive = packed(tmp_path / "cifar-10-batches-py").rename(tmp_path / "cifar-10-python.tar.gz")
    for place in (tmp_path, tmp_path / "cifar-10-batches-py", archive):
        assert source_of(str(place)) == f"cifar:{place}"
        with pytest.raises(UsageError, match=f"write cifar:{place}"):
            load_dataset(str(place))
    assert look_at(str(tmp_path)).shapes[0] == (32, 32, 3)
