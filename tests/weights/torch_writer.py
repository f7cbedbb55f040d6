"""What ``torch.save`` writes, by hand: pickles of protocol 2 with tensors in them, in either container."""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

TYPES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


@dataclasses.dataclass(frozen=True)
class Ref:
    """A global name."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Call:
    """A global called with arguments."""

    function: Ref
    arguments: tuple


@dataclasses.dataclass(frozen=True)
class Ordered:
    """An ordered dictionary with the attribute ``_metadata``, as ``Module.state_dict()`` makes them."""

    items: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Persistent:
    """A persistent id."""

    identifier: Any


def encode(value: Any) -> bytes:
    """Return the instructions that build ``value``, without memo."""
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            return pickle.dumps(value, 2)[2:-1]
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(encode, value)) + b"t"
        case list():
            return b"](" + b"".join(map(encode, value)) + b"e"
        case dict():
            return b"}(" + b"".join(encode(key) + encode(item) for key, item in value.items()) + b"u"
        case Ref():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return encode(value.function) + encode(value.arguments) + b"R"
        case Ordered():
            empty = encode(Call(Ref("collections", "OrderedDict"), ()))
            return empty + encode(value.items)[1:] + encode({"_metadata": {"": {"version": 1}}}) + b"b"
        case Persistent():
            return encode(value.identifier) + b"Q"
    raise TypeError(type(value))


def dumps(value: Any) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


def storage(key: str, array: np.ndarray, *, legacy: bool, size: int | None = None) -> Persistent:
    kind = Ref("torch", TYPES[array.dtype.name])
    identifier = ("storage", kind, key, "cpu", array.size if size is None else size)
    return Persistent((*identifier, None) if legacy else identifier)


def tensor(stored: Any, offset: Any, size: Any, stride: Any) -> Call:
    hooks = Call(Ref("collections", "OrderedDict"), ())
    return Call(Ref("torch._utils", "_rebuild_tensor_v2"), (stored, offset, size, stride, False, hooks))


def contiguous(key: str, array: np.ndarray, *, legacy: bool) -> Call:
    """Return the tensor that is all of its storage."""
    stride = tuple(step // array.itemsize for step in array.strides)
    return tensor(storage(key, array, legacy=legacy), 0, array.shape, stride)


def zip_file(
    content: Any, storages: dict[str, np.ndarray], *, byteorder="little", compression=zipfile.ZIP_STORED
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("net/data.pkl", dumps(content))
        archive.writestr("net/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"net/data/{key}", array.tobytes())
        archive.writestr("net/version", "3\n")
    return stream.getvalue()


def legacy_file(content: Any, storages: dict[str, np.ndarray], *, protocol: Any = 1001, little: bool = True) -> bytes:
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [dumps(0x1950A86A20F9469CFC6C), dumps(protocol), dumps(system), dumps(content), dumps(list(storages))]
    for array in storages.values():
        parts += [struct.pack("<q", array.size), array.tobytes()]
    return b"".join(parts)


def checkpoint(arrays: dict[str, np.ndarray], *, legacy: bool, wrap: str = "", **extra: Any) -> bytes:
    """Return a file with ``arrays`` as a state dict, under the key ``wrap`` beside ``extra`` if that is given."""
    storages = {str(index): array for index, array in enumerate(arrays.values())}
    content = Ordered({n: contiguous(str(i), a, legacy=legacy) for i, (n, a) in enumerate(arrays.items())})
    return container({wrap: content, **extra} if wrap else content, storages, legacy=legacy)


def container(content: Any, storages: dict[str, np.ndarray], *, legacy: bool) -> bytes:
    return legacy_file(content, storages) if legacy else zip_file(content, storages)
