"""What is no checkpoint is called by its name, whatever its file is called."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

from resnet_jax.errors import DataError
from resnet_jax.weights.files import load_state_dict
from tests.weights.torch_writer import checkpoint


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, "x" * 100)
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, x=np.ones(2))
    return stream.getvalue()


KINDS = {
    "TorchScript archive": archive("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"),
    "an exported program": archive("net/archive_format", "net/models/model.json", "net/data/weights/weight_0"),
    "NumPy archive": npz(),
    "Keras model": archive("config.json", "metadata.json", "model.weights.h5"),
    "zip file with net.pth in it: unpack it first": archive("net.pth"),
    "0 entries NAME/data.pkl": archive("readme.txt"),
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 40,
    "git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
    r"web page \(HTML\)": b"\n  <!DOCTYPE html>\n<html>",
    r"page and not the file": b"\xef\xbb\xbf<!-- saved --><html>",
    "XML text": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "ONNX model": b"\x08\x07\x12\x07pytorch\x1a\x052.1.0",
    "part of a TensorFlow checkpoint": b"\0" * 40 + bytes.fromhex("57fb808b247547db"),
    "gzip: unpack it first": b"\x1f\x8b\x08" + b"\0" * 20,
    "tar archive: unpack it first": b"\0" * 257 + b"ustar" + b"\0" * 250,
    "a JSON text that lists the parts of a divided checkpoint": b'{"metadata": {}, "weight_map": {}}',
    "a Python pickle that torch.save did not write": pickle.dumps({"w": 1}, 4),
    r"NumPy array \(\.npy\)": b"\x93NUMPY\x01\x00",
    "a text that begins '404: Not Found'": b"404: Not Found",
    "a msgpack file": b"\x81\xa6params\x81\xa4stem",
    r"something else, beginning with b'.x00.x01": b"\0\1\2\3\4\5\6\7\b",
    "damaged zip file, perhaps a download that stopped": checkpoint({"w": np.ones(99)}, legacy=False)[:-90],
}


@pytest.mark.parametrize("name", ["net.pth", "net"])
@pytest.mark.parametrize("what", KINDS)
def test_the_message_says_what_the_file_is(tmp_path, what, name):
    (tmp_path / name).write_bytes(KINDS[what])
    with pytest.raises(DataError, match=rf"{name}: .*{what}"):
        load_state_dict(tmp_path / name)


@pytest.mark.parametrize("what", ["git-LFS pointer", "HDF5", r"web page \(HTML\)"])
def test_also_where_it_is_called_safetensors(tmp_path, what):
    (tmp_path / "net.safetensors").write_bytes(KINDS[what])
    with pytest.raises(DataError, match=rf"net\.safetensors: .*{what}"):
        load_state_dict(tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", ["model.ckpt.data-00000-of-00001", "model.ckpt.meta", "net.onnx", "flax.msgpack"])
def test_what_has_no_mark_is_known_by_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0" * 40)
    with pytest.raises(DataError, match="not read"):
        load_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.safetensors", r"a directory; name the file in it: model\.safetensors"),
        ("saved_model.pb", "a TensorFlow SavedModel"),
        ("readme.md", "a directory and not a file of weights"),
    ],
)
def test_a_directory_is_told_from_a_file(tmp_path, file, message):
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(DataError, match=message):
        load_state_dict(tmp_path)
