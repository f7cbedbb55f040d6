"""Data that somebody made to harm: refused before memory is taken, before time is spent, and before code is run."""

from __future__ import annotations

import gzip
import json
import os
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from resnet_jax.data import decode
from resnet_jax.data.decode import decode_image, decode_stored
from resnet_jax.data.kinds.mask_file import decode_mask
from resnet_jax.data.kinds.mask_index import count_values
from resnet_jax.data.kinds.volume_file import read_volume
from resnet_jax.data.kinds.wave_file import read_samples
from resnet_jax.data.source import load_dataset
from resnet_jax.data.tfds_builder import find_builder
from resnet_jax.errors import DataError, ResNetJaxError
from resnet_jax.runtime.limits import CLASSES, IMAGE, UNPACKED
from resnet_jax.weights.files import read_weights
from tests.fuzz.guard import watching

IRREGULAR = ("pipe", "device", "socket")


def put(path: Path, kind: str) -> Path:
    """Make a name of what is no file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mknod(path, 0o140600)  # S_IFSOCK
    return path


def an_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def every(dataset) -> None:
    for records in dataset.splits.values():
        for index in range(len(records)):
            records[index]


@pytest.mark.parametrize("kind", IRREGULAR)
def test_no_reader_waits_for_a_pipe_or_reads_a_device(tmp_path, kind):
    """A name that cannot be read is an error, wherever it stands."""
    for number, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/2.png", "m/x.png", "v/x.npy", "w/x.wav")):
        an_image(tmp_path / "ok" / name, number) if name.endswith("png") else None
    folder = tmp_path / "ok"
    (folder / "t.csv").write_text("path,label\na/1.png,cat\nbad.png,dog\n")
    bad = {
        name: put(tmp_path / f"bad{suffix}", kind)
        for name, suffix in (
            ("npz", ".npz"), ("manifest", ".csv"), ("coco", ".json"), ("array_record", ".array_record"), ("ucr", ".ts"),
            ("cifar", ".tar.gz"),
        )
    }  # fmt: skip
    put(folder / "bad.png", kind)
    began = time.monotonic()
    for name, path in bad.items():
        with pytest.raises(ResNetJaxError):
            load_dataset(f"{name}:{path}")
    with pytest.raises(ResNetJaxError):
        every(load_dataset(f"manifest:{folder}/t.csv"))
    put(tmp_path / "ok" / "a" / "3.png", kind)
    every(load_dataset(f"folder:{folder}"))  # what is no file is none of its images
    (tmp_path / "npy").mkdir()
    for name in ("x.npy", "y.npy"):
        put(tmp_path / "npy" / name, kind)
    with pytest.raises(ResNetJaxError):
        load_dataset(f"npy:{tmp_path}/npy")
    for read, suffix in ((read_volume, ".npy"), (read_volume, ".nii"), (read_samples, ".wav"), (read_samples, ".flac")):
        with pytest.raises(DataError):
            read(str(put(tmp_path / f"one{suffix}", kind)))
    with pytest.raises(DataError, match=f"this is a {kind} and no file"):
        read_weights(put(tmp_path / "net.pt", kind))
    assert time.monotonic() - began < 10


def test_labels_are_no_number_of_classes_without_end(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.array([0, 2**31 - 2]))
    message = r"so there would be 2,147,483,647 classes, at most 1,000,000 \(RESNET_JAX_MAX_CLASSES allows more\)"
    with watching(tmp_path) as watched, pytest.raises(DataError, match=message):
        load_dataset(f"npz:{tmp_path}/a.npz")
    assert watched.bytes < 64 << 20
    monkeypatch.setenv(CLASSES.variable, "3")
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.array([0, 3]))
    with pytest.raises(DataError, match="at most 3 "):
        load_dataset(f"npz:{tmp_path}/b.npz")


def test_masks_of_values_that_are_no_classes(tmp_path):
    for number, value in enumerate((2**31 - 2, -5)):
        path = tmp_path / f"{number}.tiff"
        cv2.imwrite(str(path), np.full((4, 4), value, np.int32))
        with watching(tmp_path) as watched, pytest.raises(DataError):
            count_values([str(path)], lambda name: decode_mask(Path(name).read_bytes(), name), "x")
        assert watched.bytes < 64 << 20


def chunk(name: bytes, body: bytes, length: int | None = None) -> bytes:
    size = struct.pack(">I", len(body) if length is None else length)
    return size + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, colours: int, *others: bytes) -> bytes:
    """Return a PNG whose pixels are all 0, packed a thousandfold."""
    samples = {0: 1, 2: 3, 3: 1, 6: 4}[colours]
    row = 1 + width * samples * bits // 8
    packer = zlib.compressobj()
    parts = [packer.compress(bytes(row * min(256, height - start))) for start in range(0, height, 256)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    pixels = chunk(b"IDAT", b"".join(parts) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(others) + pixels + chunk(b"IEND", b"")


def test_a_small_image_that_decodes_to_much_is_refused_before_it_does(monkeypatch):
    monkeypatch.setenv(IMAGE.variable, "8")
    monkeypatch.setattr(decode, "_SURE_PIXELS", 1 << 20)
    small = png(1500, 1500, 16, 6)
    message = r"bytes say that they decode to 18,000,000; of a file that small at most 8 MiB \(RESNET_JAX_MAX_IMAGE_MIB"
    for read in (lambda: decode_image(small, 3, "x"), lambda: decode_stored(small, 0, "x")):
        with watching() as watched, pytest.raises(DataError, match=message):
            read()
        assert watched.bytes < 8 << 20
    grey = png(3000, 3000, 8, 0)
    with pytest.raises(DataError, match="decode to 9,000,000"):
        decode_mask(grey, "x")
    monkeypatch.setenv(IMAGE.variable, "9")
    assert decode_mask(grey, "x").shape == (3000, 3000)


def test_a_chunk_that_says_it_is_longer_than_the_file_takes_no_memory():
    whole = png(8, 8, 8, 2)
    broken = whole[:-12] + chunk(b"tEXt", b"a" * 40, length=0xF0000000) + whole[-12:]
    for read in (
        lambda: decode_image(broken, 3, "x"),
        lambda: decode_stored(broken, 0, "x"),
        lambda: decode_mask(png(8, 8, 8, 0)[:-12] + chunk(b"tEXt", b"", length=0xF0000000), "x"),
    ):
        with watching() as watched, pytest.raises(DataError):
            read()
        assert watched.bytes < 64 << 20


def test_the_still_image_of_an_animated_png_is_decoded_and_a_broken_frame_ends_no_process():
    """OpenCV 5.0 returns to a place that is no more where the first frame is damaged (opencv/opencv#27744)."""
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    frames = cv2.Animation()
    frames.frames, frames.durations = [image, 255 - image], [100, 100]
    data = cv2.imencodeanimation(".png", frames)[1].tobytes()
    assert (decode_image(data, 3, "x") == image[..., ::-1]).all()
    assert (decode_stored(data, 3, "x") == image[..., ::-1]).all()
    at = data.index(b"IDAT") + 4
    body = zlib.decompress(data[at : at + struct.unpack(">I", data[at - 8 : at - 4])[0]])
    damaged = chunk(b"IDAT", zlib.compress(b"\x99" + body[1:]))
    end = at + struct.unpack(">I", data[at - 8 : at - 4])[0] + 4
    with pytest.raises(DataError, match="cannot decode"):
        decode_image(data[: at - 8] + damaged + data[end:], 3, "x")


def test_a_volume_and_a_sound_that_unpack_to_much_are_refused_by_their_headers(tmp_path, monkeypatch):
    nibabel, soundfile = pytest.importorskip("nibabel"), pytest.importorskip("soundfile")
    monkeypatch.setenv(UNPACKED.variable, "1")
    volume = nibabel.Nifti1Image(np.zeros((128, 128, 64), np.uint8), np.eye(4)).to_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(volume))
    with pytest.raises(DataError, match="unpack to 4,194,304; at most 1 MiB"):
        read_volume(str(tmp_path / "a.nii.gz"))
    soundfile.write(tmp_path / "a.flac", np.zeros(400_000, np.float32), 8000)
    with pytest.raises(DataError, match="unpack to 1,600,000; at most 1 MiB"):
        read_samples(str(tmp_path / "a.flac"))
    monkeypatch.delenv(UNPACKED.variable)
    assert read_samples(str(tmp_path / "a.flac"))[0].shape == (400_000, 1)


def test_what_tfds_would_import_or_fetch_is_not(tmp_path):
    """``features.json`` names classes, and TFDS imports the module of one that it does not know."""
    folder = tmp_path / "mine" / "1.0.0"
    folder.mkdir(parents=True)
    (tmp_path / "harm.py").write_text("open('harmed', 'w')\n")
    (folder / "features.json").write_text(json.dumps({"type": "harm.Feature", "content": {}}))
    info = {"name": "mine", "version": "1.0.0", "fileFormat": "array_record", "splits": []}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        patched.chdir(tmp_path)
        with pytest.raises(DataError, match=r"names a kind of feature that is none of TFDS's: 'harm\.Feature'"):
            find_builder("mine", str(tmp_path))
    assert not (tmp_path / "harmed").exists()
    with pytest.raises(DataError, match="a set of another namespace, 'kubric', whose code TFDS would fetch and run"):
        find_builder("kubric:movi_a", str(tmp_path))
