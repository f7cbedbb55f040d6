from __future__ import annotations

import cv2
import numpy as np
import pytest

from resnet_jax.data.look import look_at, source_of
from resnet_jax.errors import DataError


def test_a_folder_of_photographs_of_two_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("ant", 2), ("bee", 6)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (20 + 10 * (i % 2), 50, 3), np.uint8)
            (tmp_path / name / f"{i}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    found = look_at(str(tmp_path))
    assert found.source == f"folder:{tmp_path}"
    assert (found.names, found.counts, found.imbalance) == (("ant", "bee"), (2, 6), 3.0)
    assert (found.side, found.one_size, found.channels) == ((20, 30, 30), False, 3)
    assert (found.grey, found.stored, found.meaning) == (False, False, "image")


def test_arrays_and_tables(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 50, 2))
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(12) / 7, target_names=np.array(["mass"]))
    found = look_at(str(tmp_path / "a.npz"))
    assert (found.label_kind, found.names, found.counts, found.imbalance) == ("value", ("mass",), (), 1.0)
    assert (found.dtype, found.meaning, found.side, found.stored) == ("float32", "signal", (50, 50, 50), True)
    np.save(tmp_path / "s.npy", x[0, :, 0])
    (tmp_path / "t.csv").write_text("path,labels\ns.npy,a;b\ns.npy,b\n")
    found = look_at(str(tmp_path / "t.csv"))
    assert (found.source, found.label_kind, found.counts) == (f"manifest:{tmp_path}/t.csv", "multi-label", (1, 2))


def test_what_is_no_data_set_is_said(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"x\.png is no data set; it is a PNG image"):
        look_at(str(tmp_path / "x.png"))
    with pytest.raises(DataError, match="there is no such file or folder"):
        look_at(str(tmp_path / "gone"))
    assert source_of("tfds:mnist") == "tfds:mnist"


def test_a_real_set(shared_data):
    found = look_at(str(shared_data / "cifar10-test-lossless-1017.npz"))
    assert (found.train_examples, found.side, found.channels, len(found.names)) == (1017, (32, 32, 32), 3, 10)
