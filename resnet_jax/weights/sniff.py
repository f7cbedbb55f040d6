"""Recognize files that are not checkpoints by their first bytes, for the error message, whatever their name.

The signatures are those of the formats' specifications. ONNX and TensorFlow's data files have none, and are guessed
from the fields with which all of them begin, or from their names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from resnet_jax.errors import DataError
from resnet_jax.runtime import plain_files
from resnet_jax.runtime.limits import WEIGHTS

SAVE = "in PyTorch torch.save(model.state_dict(), 'net.pt')"

_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes, and Keras weights are not read"),
    (b"version https://git-lfs", "a git-LFS pointer and not the weights themselves: `git lfs pull` fetches them"),
    (b"\x93NUMPY", "a NumPy array (.npy), which has no names"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\xfd7zXZ\x00", "compressed with xz: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"TFL3", "a TensorFlow Lite model"),
)
_TABLE_END = bytes.fromhex("57fb808b247547db")  # end of TensorFlow's index files, which are sorted string tables


def read_file(path: Path) -> bytes:
    """Return the bytes of ``path``.

    Raises:
        DataError: it is missing, unreadable, empty, or a directory; for a directory, the message says what it looks
            like.
    """
    if path.is_dir():
        raise DataError(f"{path}: {_describe_directory(path)}")
    try:
        data = plain_files.read_file(path, WEIGHTS.value << 20, WEIGHTS.how)
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}") from None
    if not data:
        raise DataError(f"{path}: the file is empty")
    return data


def describe(data: bytes, path: Path) -> str:
    """Say what ``data`` looks like, or how it begins."""
    return recognize(data, path) or f"something else, beginning with {data[:8]!r}"


def recognize(data: bytes, path: Path) -> str:
    """Say what ``data`` is, or return an empty string; ``path`` is only used if the bytes do not tell.

    >>> recognize(b"<!DOCTYPE html><html>", Path("net.pth"))
    'a web page (HTML): the download gave a page and not the file'
    """
    for mark, what in _MARKS:
        if data.startswith(mark) or (what.startswith("a TensorFlow Lite") and data[4:8] == mark):
            return what
    text = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<") and b"html" in text:
        return "a web page (HTML): the download gave a page and not the file"
    if text.startswith(b"<?xml"):
        return "an XML text, such as a server's error message: the download did not give the file"
    if text.startswith((b"{", b"[")):
        return "a JSON text" + (" that lists the parts of a divided checkpoint" if b"weight_map" in data else "")
    if data[257:262] == b"ustar":
        return "a tar archive: unpack it first" + _tar_of_torch(data)
    if data.endswith(_TABLE_END) or re.search(r"\.data-\d{5}-of-\d{5}$|\.ckpt\.(index|meta)$", path.name):
        return "part of a TensorFlow checkpoint, and TensorFlow weights are not read"
    if _is_onnx(data) or path.suffix == ".onnx":
        return f"an ONNX model, whose weights are not read: take the PyTorch network it came from, {SAVE}"
    if path.name == "saved_model.pb":
        return "a TensorFlow SavedModel, and TensorFlow weights are not read"
    if path.suffix in (".msgpack", ".flax") or _is_msgpack(data):
        return "a msgpack file, as Flax writes, and Flax weights are not read"
    if data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05":
        return f"a Python pickle that torch.save did not write: load it in Python and save its tensors, {SAVE}"
    start = data[:60].decode("ascii", "replace").split("\n")[0].strip()
    return f"a text that begins {start!r}" if len(start) > 2 and start.isprintable() and start.isascii() else ""


def describe_zip(names: Sequence[str]) -> str:
    """Say what a zip file with these entries is if it is not a PyTorch checkpoint; otherwise return an empty string.

    >>> describe_zip(["net/data.pkl", "net/data/0"]), describe_zip(["x.npy"])[:17]
    ('', 'a NumPy archive (')
    """
    if any(name.endswith("/constants.pkl") or re.match(r"[^/]+/code/", name) for name in names):
        return (
            "a TorchScript archive (torch.jit.save), which holds a program and not a state dict; in PyTorch "
            "torch.save(torch.jit.load(file).state_dict(), 'net.pt')"
        )
    if any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
        return (
            "an exported program (torch.export.save), not a state dict; in PyTorch "
            "torch.save(torch.export.load(file).state_dict, 'net.pt')"
        )
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return f"a NumPy archive (.npz) with {_some(names)}; weights are read from PyTorch checkpoints and safetensors"
    if any(name.endswith(".h5") for name in names) and "config.json" in names:
        return "a Keras model (.keras), and Keras weights are not read"
    inside = [name for name in names if name.endswith((".pt", ".pth", ".th", ".bin", ".safetensors", ".ckpt"))]
    if inside:
        return f"a zip file with {_some(inside)} in it: unpack it first"
    return f"a zip file with 0 entries NAME/data.pkl, of which a PyTorch checkpoint has one; it holds {_some(names)}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(ascii(name)[1:-1] for name in names[:4]) or "nothing"
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _is_onnx(data: bytes) -> bool:
    """Return whether the first fields are those of a ModelProto: ir_version as a varint, producer_name as a string."""
    return data[:1] == b"\x08" and len(data) > 8 and data[1] < 32 and data[2:3] == b"\x12" and data[4:7].isalnum()


def _is_msgpack(data: bytes) -> bool:
    """Return whether the first bytes are a map of up to 15 entries whose first key is a short string."""
    length = data[1] - 0xA0 if len(data) > 1 else 0
    return 0x81 <= data[0] <= 0x8F and 0 < length < 32 and data[2 : 2 + length].isalnum()


def _tar_of_torch(data: bytes) -> str:
    return " (PyTorch before 2017 wrote such files; load it there and save it again)" if b"storages\x00" in data else ""


def _describe_directory(path: Path) -> str:
    if (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        return "a run directory of resnet-jax, which needs no import: eval, predict and init_from take it as it is"
    if (path / "saved_model.pb").is_file():
        return "a TensorFlow SavedModel, and TensorFlow weights are not read"
    files = sorted(
        file.name for file in path.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".pth", ".th", ".ckpt")
    )
    if files:
        return f"a directory; name the file in it: {', '.join(files[:4])}"
    return "a directory and not a file of weights"
