"""PyTorch checkpoints as NumPy arrays, without torch and without running anything in the file.

Two containers hold the same pickle of tensors, where each tensor is a window (offset, size, stride) of a numbered
storage:

* since PyTorch 1.6, a zip file with ``NAME/data.pkl`` and one uncompressed entry ``NAME/data/KEY`` per storage;
* before that (and with ``_use_new_zipfile_serialization=False``), a sequence: the pickles of a magic number, a protocol
  version, a dictionary about the system, the object, and the list of storage keys; then for each key the number of
  elements as an int64 and the elements, little-endian.

Source: ``torch/serialization.py`` (``_save``, ``_legacy_save``). The pickle is interpreted by
:mod:`resnet_jax.runtime.plain_pickle`.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.lib.stride_tricks import as_strided

from resnet_jax.errors import DataError
from resnet_jax.runtime import plain_pickle
from resnet_jax.runtime.plain_pickle import Global, Inert
from resnet_jax.weights.sniff import describe, describe_zip, read_file

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")  # in pickle protocol 2, torch's default
LEGACY_PROTOCOL = 1001

STORAGE_DTYPES: dict[str, np.dtype] = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
}

#: An empty tensor takes no bytes, whatever its other dimensions say; no real tensor has a larger dimension than this.
_EMPTY_LIMIT = 2**31


def load_torch(path: str | Path) -> Any:
    """Read a PyTorch checkpoint in either container.

    Args:
        path: the file (``.pt``, ``.pth``, ``.th``, ``.bin``, ...); its content determines the container.

    Returns:
        The saved object: nested dicts (also ordered ones), lists, tuples, numbers and strings, with a NumPy array for
        each tensor and parameter. bfloat16 keeps its type (``ml_dtypes``). Tensors that shared memory still do.
        Anything else, such as an ``argparse.Namespace`` next to the tensors, becomes an :class:`Inert` placeholder with
        its name.

    Raises:
        DataError: the file is missing, not a PyTorch checkpoint, truncated or damaged; a tensor reaches outside its
            storage; or the pickle asks for code to be run, which is refused with the full name of the code.
    """
    path = Path(path).expanduser()
    return parse_torch(read_file(path), path)


def is_torch(data: bytes) -> bool:
    """Return whether ``data`` begins like one of PyTorch's containers."""
    return data.startswith(ZIP_MAGIC) or _is_legacy(data)


def _is_legacy(data: bytes) -> bool:
    """Return whether ``data`` is a pickle, of any protocol, of the magic number."""
    return data[:1] == b"\x80" and LEGACY_START[2:] in data[:32]


def parse_torch(data: bytes, path: Path) -> Any:
    """Read a PyTorch checkpoint from its bytes; see :func:`load_torch`. ``path`` is for messages."""
    try:
        if data.startswith(ZIP_MAGIC):
            return _load_zip(data)
        if _is_legacy(data):
            return _load_legacy(data)
    except UnpicklingError as error:
        raise DataError(f"{path}: {error}") from None
    raise DataError(
        f"{path}: not a PyTorch checkpoint, which begins with {ZIP_MAGIC!r} or {LEGACY_START!r}; this is "
        f"{describe(data, path)}"
    )


def _load_zip(data: bytes) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            other = describe_zip([info.filename for info in archive.infolist()])
            if other:
                raise UnpicklingError(other)
            if sum(info.compress_size for info in archive.infolist()) > len(data):
                raise zipfile.BadZipFile("its entries are longer than the file")
            entries = {info.filename: _read_stored(archive, info) for info in archive.infolist()}
    except (
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
        struct.error,
    ) as error:
        raise UnpicklingError(f"damaged zip file, perhaps a download that stopped: {error}") from None
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UnpicklingError(f"a zip file with {len(pickles)} entries NAME/data.pkl; a PyTorch checkpoint has one")
    root = pickles[0].removesuffix("data.pkl")
    if entries.get(f"{root}byteorder", b"little") != b"little":
        raise UnpicklingError("saved on a big-endian machine; only little-endian files are read")
    storages = _Storages(limit=len(data), skips_unknown=True)  # one entry each, so unknown lengths do not matter
    result = plain_pickle.load(io.BytesIO(entries[pickles[0]]), _BUILDERS, storages.reserve, inert=True)
    for key, array in storages.arrays.items():
        if f"{root}data/{key}" not in entries:
            raise UnpicklingError(f"the entry of storage {key!r} is missing")
        _fill(array, key, entries[f"{root}data/{key}"])
    return result


def _read_stored(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return an entry. PyTorch does not compress entries, so a compressed one could only be a decompression bomb."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"entry {info.filename!r} is compressed, which PyTorch's never are")
    return archive.read(info)


def _load_legacy(data: bytes) -> Any:
    stream = io.BytesIO(data)
    plain_pickle.load(stream, {})  # the magic number, recognized by the caller
    protocol = plain_pickle.load(stream, {})
    if protocol != LEGACY_PROTOCOL:
        raise UnpicklingError(f"legacy checkpoint of protocol {_brief(protocol)}; only {LEGACY_PROTOCOL} is known")
    system = plain_pickle.load(stream, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnpicklingError("saved on a big-endian machine; only little-endian files are read")
    storages = _Storages(limit=len(data))
    result = plain_pickle.load(stream, _BUILDERS, storages.reserve, inert=True)
    if isinstance(result, Inert) and result.is_module:  # will be rejected, so its storages do not matter
        return result
    keys = plain_pickle.load(stream, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UnpicklingError("the list of storage keys is not a list of texts")
    if sorted(keys) != sorted(storages.arrays):
        raise UnpicklingError(f"tensors use {len(storages.arrays)} storages, the file lists {len(keys)} or others")
    for key in keys:
        array = storages.arrays[key]
        header = stream.read(8)
        if header != array.size.to_bytes(8, "little"):
            raise UnpicklingError(f"storage {key!r} is cut short or does not have the {array.size} elements announced")
        _fill(array, key, stream.read(array.nbytes))
    return result


class _Storages:
    """The storages that a pickle has named: allocated when they are named, filled afterwards."""

    def __init__(self, limit: int, *, skips_unknown: bool = False):
        self.arrays: dict[str, np.ndarray] = {}
        self.left, self.skips_unknown = limit, skips_unknown

    def reserve(self, identifier: Any) -> np.ndarray | Global | Inert:
        """Return the storage of ``("storage", type, key, location, elements[, view])``, initially all zeros.

        Old files store the source code of a pickled module's class in the same way; there, the class stands for itself.
        """
        match identifier:
            case ("module", Global() as kind, *_):
                return kind
            case ("storage", Global(name=name), str(key), str(), int(size)) if name in STORAGE_DTYPES:
                pass
            case ("storage", Global(name=name), str(key), str(), int(size), None) if name in STORAGE_DTYPES:
                pass
            case ("storage", Global(name=name), *_) if self.skips_unknown and _is_unknown(name):
                return Inert(name)  # for example of quantized or 8-bit floating-point numbers
            case _:
                raise UnpicklingError(
                    "a persistent id that is not a plain tensor storage (of another type, or a view?)"
                )
        dtype = STORAGE_DTYPES[name]
        array = self.arrays.get(key)
        if array is None:
            self.left -= size * dtype.itemsize
            if size < 0 or self.left < 0:
                raise UnpicklingError(f"cut short: storage {key!r} of {size} elements does not fit into the file")
            array = self.arrays[key] = np.zeros(size, dtype)
        if (array.size, array.dtype) != (size, dtype):
            raise UnpicklingError(f"storage {key!r} is used with two sizes or two types")
        return array


def _is_unknown(name: str) -> bool:
    return name.startswith("torch.") and name.endswith("Storage") and name not in STORAGE_DTYPES


def _fill(storage: np.ndarray, key: str, data: bytes) -> None:
    if len(data) != storage.nbytes:
        raise UnpicklingError(f"storage {key!r} needs {storage.nbytes} bytes, the file has {len(data)}: cut short?")
    storage[...] = np.frombuffer(data, storage.dtype)


def _rebuild_tensor(arguments: tuple) -> np.ndarray | Inert:
    """Return the window ``(storage, offset, size, stride, ...)``; a stride-0 axis may not exceed the storage."""
    match arguments:
        case (Inert(name=name), *_):  # a storage that torch does not know
            return Inert(name)
        case (np.ndarray() as storage, int(offset), tuple(size), tuple(stride), *_) if len(size) == len(
            stride
        ) <= 32 and all(type(n) is int for n in (offset, *size, *stride)):
            pass
        case _:
            raise UnpicklingError("a tensor is not described by storage, offset, size and stride")
    outside = UnpicklingError(
        f"a tensor of offset {_brief(offset)}, size {_brief(size)} and stride {_brief(stride)} reaches outside its "
        f"storage of {storage.size} elements"
    )
    if min(offset, *size, *stride, 0) < 0:
        raise outside
    if 0 in size:
        if math.prod(max(n, 1) for n in size) > _EMPTY_LIMIT:
            raise outside
        return np.zeros(size, storage.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= storage.size or math.prod(size) > storage.size:
        raise outside
    strides = [s * storage.itemsize if n > 1 else 0 for n, s in zip(size, stride, strict=True)]
    return as_strided(storage[offset:], size, strides)


def _rebuild_parameter(arguments: tuple) -> np.ndarray | Inert:
    """Return the tensor of ``(tensor, requires_grad, hooks)``."""
    match arguments:
        case ((np.ndarray() | Inert()) as tensor, *_):
            return tensor
    raise UnpicklingError("a parameter without a tensor")


def _rebuild_from_type(arguments: tuple) -> Any:
    """Return the tensor of ``(function, type, arguments, state)``: a tensor of a subclass or with attributes."""
    match arguments:
        case (Global(name=name), _, tuple(inner), *_) if name in _TENSORS:
            return _TENSORS[name](inner)
        case (Global(name=name), Global(name=kind), *_):
            return Inert(f"{kind} made by {name}")
    raise UnpicklingError("a tensor of a class of its own without its tensor")


def _ordered_dict(arguments: tuple) -> dict:
    """Return a plain dict (which is ordered): empty, or from a list of pairs as Python 2 wrote them."""
    result: dict = {}
    match arguments:
        case ():
            return result
        case (list(pairs),) if all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            plain_pickle.update(result, [key for key, _ in pairs], [value for _, value in pairs])
            return result
    raise UnpicklingError("an ordered dictionary that is not made of pairs")


def _size(arguments: tuple) -> tuple:
    """Return ``torch.Size(integers)`` as a tuple."""
    match arguments:
        case (tuple(size),):
            return size
    raise UnpicklingError("a torch.Size that is not made of a tuple")


def _brief(value: Any) -> str:
    """Return a number or a tuple of numbers for a message; for anything long or nested, the name of its type."""
    if type(value) is tuple and all(type(item) is int for item in value):
        return f"({', '.join(map(_brief, value))})"
    if type(value) is int:
        return str(value) if abs(value) < 2**64 else "more than 2**64"
    return type(value).__name__


def _default_dict(arguments: tuple) -> dict:
    """Return ``defaultdict(factory)`` as a plain dict."""
    if len(arguments) > 1:
        raise UnpicklingError("a defaultdict that is not made of a factory")
    return {}


_TENSORS: dict[str, Callable[[tuple], Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
_BUILDERS: plain_pickle.Builders = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "torch.Size": _size,
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    **dict.fromkeys(STORAGE_DTYPES),
}
