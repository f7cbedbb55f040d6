"""Read a state dict, flat names to NumPy arrays, from a file of any common format, and write safetensors.

The content of a file determines its format, not its name. PyTorch's two containers are read by :mod:`.torch_file`.
safetensors is a JSON header with raw arrays (its package has no bfloat16 for NumPy, hence the table here).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import DataError, UsageError
from resnet_jax.runtime.files import replacing
from resnet_jax.weights import select
from resnet_jax.weights.sniff import describe, read_file, recognize
from resnet_jax.weights.torch_file import is_torch, parse_torch

#: Prefix that ``torch.nn.DataParallel`` and similar wrappers put before every name.
PREFIX = "module"
#: Words that torch.compile, sharding and checkpointing insert into names; they name no layer.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: Counters that no forward pass uses: training batches of a batch norm, updates of torch's AveragedModel.
COUNTERS = ("num_batches_tracked", "n_averaged")
_MOST_WORDS = 8

SAFETENSORS_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The state dict of a file, and how it was extracted.

    Attributes:
        tensors: the arrays by name, in the layout and the dtypes of the file.
        key: path of the mapping that contained them, empty at the top.
        prefix: prefix removed from every name, such as ``module.`` or ``_orig_mod.module.``.
        left_aside: names that were not requested.
        metadata: metadata of a safetensors file.
    """

    tensors: dict[str, np.ndarray]
    key: str = ""
    prefix: str = ""
    left_aside: tuple[str, ...] = ()
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def load_state_dict(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint.

    The state dict is the only mapping of names to tensors in the file, at any depth, or the one that ``key`` leads to.
    The common prefix ``module.`` and the words that torch.compile and similar tools insert are removed (any other
    prefix is removed when the network is known: :func:`resnet_jax.weights.convert.to_variables`), and batch norm's
    ``num_batches_tracked`` is left out.

    Args:
        path: a safetensors file or a PyTorch checkpoint, under any name.
        key: dotted path of the mapping to take, such as ``ema`` or ``checkpoint.model``, optionally followed by a
            prefix of the names to take, such as ``model.backbone``.

    Returns:
        The arrays by name, in the layout and the dtypes of the file.

    Raises:
        DataError: the file is missing, of another format, damaged, malicious, or has no state dict.
        UsageError: there are several mappings and no ``key``, or no such ``key``.
    """
    return read_weights(path, key).tensors


def read_weights(path: str | Path, key: str | None = None) -> WeightFile:
    """Read the tensors of a checkpoint, and report where in it they were; see :func:`load_state_dict`."""
    path = Path(path).expanduser()
    data = read_file(path)
    if is_torch(data):
        return clean(parse_torch(data, path), path, key)
    if not _is_safetensors(data) and (path.suffix != ".safetensors" or recognize(data, path)):
        raise DataError(
            f"{path}: this is {describe(data, path)}; weights are read from PyTorch checkpoints and safetensors files"
        )
    arrays, metadata = _parse_safetensors(data, path)
    return dataclasses.replace(clean(arrays, path, key), metadata=metadata)


def clean(content: Any, source: str | Path, key: str | None = None) -> WeightFile:
    """Return the state dict inside ``content``; see :func:`load_state_dict`.

    Raises:
        DataError: there is none, or it holds something other than tensors; the message names ``source``.
        UsageError: there are several and no ``key``, or no such ``key``.

    >>> clean({"epoch": 3, "state_dict": {"module.fc.bias": np.zeros(2)}}, "net.pt")
    WeightFile(tensors={'fc.bias': array([0., 0.])}, key='state_dict', prefix='module.', left_aside=(), metadata={})
    """
    found, part = select.choose(content, key, source)
    foreign = select.foreign_entries(found)
    if foreign:
        where = f"{source}: {found.path!r} is" if found.path else f"{source}: this is"
        rest = f" and {len(foreign) - 8} more" if len(foreign) > 8 else ""
        raise DataError(
            f"{where} not a state dict, which maps names to tensors; it holds {', '.join(foreign[:8])}{rest}"
        )
    arrays = {name: value for name, value in found.entries.items() if name.rpartition(".")[2] not in COUNTERS}
    arrays, prefix = unwrapped(arrays)
    if not part:
        return WeightFile(arrays, found.path, prefix)
    part = ".".join(word for word in part.split(".") if f"{word}." not in prefix) if prefix else part
    taken = {name.removeprefix(f"{part}."): value for name, value in arrays.items() if name.startswith(f"{part}.")}
    if not part:
        taken = arrays
    if not taken:
        raise UsageError(f"{source}: no name in {found.path or 'the file'} begins with {part!r}")
    aside = tuple(name for name in arrays if part and not name.startswith(f"{part}."))
    return WeightFile(taken, found.path, f"{prefix}{part}." if part else prefix, aside)


def unwrapped(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Remove the words of wrappers from the names, and return the prefix of wrappers that all names had.

    >>> unwrapped({"_orig_mod.module.fc.weight": 1, "_orig_mod.module.layer1._orig_mod.conv1.weight": 2})
    ({'fc.weight': 1, 'layer1.conv1.weight': 2}, '_orig_mod.module.')
    """
    names = {name: [word for word in name.split(".") if word not in WRAPPERS] for name in arrays}
    for _ in range(_MOST_WORDS):
        if names and all(len(words) > 1 and words[0] == PREFIX for words in names.values()):
            names = {name: words[1:] for name, words in names.items()}
    short = {name: ".".join(words) for name, words in names.items()}
    if len(set(short.values())) < len(short) or not all(short.values()):  # two names would become one
        return dict(arrays), ""
    prefixes = {_before(name, new) for name, new in short.items()}
    return {short[name]: value for name, value in arrays.items()}, prefixes.pop() if len(prefixes) == 1 else ""


def _before(name: str, new: str) -> str:
    """Return what precedes the first word of ``new`` in ``name``."""
    words, first = name.split("."), new.partition(".")[0]
    return "".join(f"{word}." for word in words[: words.index(first)])


def save_safetensors(
    state_dict: Mapping[str, np.ndarray], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``state_dict`` to ``path``, which appears only once it is complete, with permissions by the umask.

    Args:
        state_dict: arrays by name, as :func:`resnet_jax.weights.convert.from_variables` returns them.
        path: the file to write; an existing one is replaced.
        metadata: strings to store with the arrays; ``format: pt``, which PyTorch readers look for, is added.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path).expanduser()
    arrays = {name: np.asarray(array, order="C") for name, array in state_dict.items()}
    try:
        with replacing(path) as partial:
            partial.write_bytes(b"")
            mode = partial.stat().st_mode  # safetensors creates a file that only its user can read
            save_file(arrays, partial, metadata={"format": "pt", **(metadata or {})})
            with contextlib.suppress(OSError):  # a file system without modes
                partial.chmod(mode)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _is_safetensors(data: bytes) -> bool:
    """Return whether ``data`` begins with the length of a JSON header that is present."""
    return 2 <= int.from_bytes(data[:8], "little") <= len(data) - 8 and data[8:9] == b"{"


def _parse_safetensors(data: bytes, path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    import json

    from safetensors import SafetensorError, deserialize

    try:
        entries: Iterable[Any] = deserialize(data)
    except SafetensorError as error:
        raise DataError(f"{path}: not a safetensors file, or a damaged one: {error}") from None
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in SAFETENSORS_DTYPES:
            known = ", ".join(SAFETENSORS_DTYPES)
            raise DataError(f"{path}: tensor {name!a} is of type {entry['dtype']}; known are {known}")
        arrays[name] = np.frombuffer(entry["data"], SAFETENSORS_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # the package has just parsed it
    return {name: arrays[name] for name in header if name in arrays}, header.get("__metadata__") or {}
