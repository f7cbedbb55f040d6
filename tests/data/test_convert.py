"""`data convert`: what is refused, and what is left when it fails."""

from __future__ import annotations

import os
import resource
import shutil
import signal

import numpy as np
import pytest

from resnet_jax.data import convert as convert_module, load_dataset
from resnet_jax.data.convert import convert
from resnet_jax.errors import DataError, UsageError


def test_what_is_there_is_not_overwritten_unless_asked(make_folder, tmp_path):
    out = tmp_path / "x.array_record"
    convert("digits", out)
    before = out.read_bytes()
    source = f"folder:{make_folder({'set/a': 2, 'set/b': 1})}/set"
    with pytest.raises(UsageError, match=r"x\.array_record is there already; --overwrite replaces it"):
        convert(source, out)
    assert out.read_bytes() == before
    convert(source, out, overwrite=True)
    assert load_dataset(f"array_record:{out}").class_names == ("a", "b")
    with pytest.raises(UsageError, match=r"is a folder; name the file to write"):
        convert("digits", tmp_path)
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere; make it first"):
        convert("digits", tmp_path / "nowhere" / "x")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"b/999\.png: it is empty \(0 bytes\)"),
        (b"hello, this is text", r"b/999\.png: it is text"),
        (None, r"b/999\.png: cannot read it \(No such file"),
    ],
)
def test_a_broken_source_leaves_nothing(make_folder, tmp_path, threads, data, message, monkeypatch):
    root = make_folder({"set/a": 9, "set/b": 9}) / "set"
    monkeypatch.setattr(convert_module, "CHUNK", 3)
    bad = root / "b" / "999.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    source = load_dataset(f"folder:{root}")
    monkeypatch.setattr(convert_module, "load_dataset", lambda *_: source)
    bad.unlink() if data is None else bad.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=message):
        convert(f"folder:{root}", tmp_path / "out" / "x", threads=threads)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8), y=[0, 1] * 20)
    (tmp_path / "out").mkdir()
    out, before = tmp_path / "out" / "x", resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(DataError) as error:
            convert(f"npz:{tmp_path}/a.npz", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(error.value) == f"{out}: cannot write it (File too large); nothing is left of it"
    assert list(out.parent.iterdir()) == []


def test_what_cannot_fit_is_refused_before_it_is_read(make_folder, tmp_path, monkeypatch):
    root = make_folder({"set/a": 2, "set/b": 2}) / "set"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5))
    with pytest.raises(DataError, match=r"x: the examples of folder:.* take 0\.00 GB and 0\.00 GB are free there"):
        convert(f"folder:{root}", tmp_path / "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"cannot write it \(Permission denied"):
        convert("digits", tmp_path / "locked" / "x")


def test_progress_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "EVERY", 0.0)
    said = []
    convert("digits", tmp_path / "x", progress=said.append)
    assert len(said) == 1797
    assert said[-1].startswith("1,797 of 1,797 examples, ")
    assert said[-1].endswith("a second, 0 s to go")


@pytest.mark.slow
def test_real_boxes_keep_their_image_files(shared_data, tmp_path):
    import tarfile

    with tarfile.open(shared_data / "bccd-train-val.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    source = load_dataset(f"voc:{tmp_path}/bccd")
    written = convert(f"voc:{tmp_path}/bccd", tmp_path / "x")
    copy = load_dataset(f"array_record:{tmp_path}/x")
    assert (copy.kind, copy.class_names, copy.notes) == (source.kind, source.class_names, source.notes)
    assert all(written.encoded.values())
    for split, records in source.splits.items():
        assert records.spec == copy.splits[split].spec
        for index in range(0, len(records), 29):
            for name, value in records[index].items():
                np.testing.assert_array_equal(value, copy.splits[split][index][name])
