"""A state dict, flat names to NumPy arrays, from a file of any of the formats in use; and back to safetensors.

PyTorch's two containers are read by :mod:`.torch_file`; safetensors is a JSON header and raw arrays (its package has no
bfloat16 for NumPy, hence the table here).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import DataError
from resnet_jax.weights.torch_file import load_torch

#: Keys under which training scripts put the state dict in a checkpoint, in the order they are looked for.
WRAPPERS = ("state_dict", "model")
#: What ``torch.nn.DataParallel`` puts before every name.
PREFIX = "module."
#: torch's count of training batches, one per batch norm; no forward pass uses it.
COUNTER = "num_batches_tracked"

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


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint.

    A wrapper (``{"state_dict": ...}`` or ``{"model": ...}``) and the prefix ``module.`` common to all names are taken
    off, and batch norm's ``num_batches_tracked`` left out.

    Args:
        path: a ``.safetensors`` file, or a PyTorch checkpoint under any name.

    Returns:
        The arrays by name, in the layout and the dtypes of the file.

    Raises:
        DataError: not there, of another format, damaged, hostile, or not a state dict.
    """
    path = Path(path).expanduser()
    content = _load_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)
    return clean(content, path)


def clean(content: Any, source: str | Path) -> dict[str, np.ndarray]:
    """Return the state dict inside ``content``; see :func:`load_state_dict`.

    Raises:
        DataError: there is none; ``source`` names the place in the message.

    >>> clean({"epoch": 3, "state_dict": {"module.fc.bias": np.zeros(2)}}, "net.pt")
    {'fc.bias': array([0., 0.])}
    """
    if isinstance(content, Mapping):
        wrapped = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        content = wrapped[0] if wrapped else content
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{source}: no state dict at the top or under {' or '.join(map(repr, WRAPPERS))}")
    foreign = [f"{name!a} ({type(v).__name__})" for name, v in content.items() if not _is_tensor(name, v)]
    if foreign:
        raise DataError(f"{source}: not a state dict, which maps names to tensors; it holds {', '.join(foreign[:8])}")
    if all(name.startswith(PREFIX) for name in content):
        content = {name.removeprefix(PREFIX): value for name, value in content.items()}
    return {name: value for name, value in content.items() if name.rpartition(".")[2] != COUNTER}


def save_safetensors(
    state_dict: Mapping[str, np.ndarray], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``state_dict`` to ``path``, which appears only when it is complete.

    Args:
        state_dict: arrays by name, as :func:`resnet_jax.weights.convert.from_variables` makes them.
        path: the file to write; an existing one is replaced.
        metadata: texts to keep with the arrays; ``format: pt``, which readers in PyTorch look for, is added.
    """
    from safetensors.numpy import save_file

    path = Path(path).expanduser()
    partial = path.with_name(path.name + ".tmp")
    arrays = {name: np.asarray(array, order="C") for name, array in state_dict.items()}
    save_file(arrays, partial, metadata={"format": "pt", **(metadata or {})})
    os.replace(partial, path)


def _load_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}") from None
    except SafetensorError as error:
        raise DataError(f"{path}: not a safetensors file, or a damaged one: {error}") from None
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in SAFETENSORS_DTYPES:
            known = ", ".join(SAFETENSORS_DTYPES)
            raise DataError(f"{path}: tensor {name!a} is of type {entry['dtype']}; known are {known}")
        arrays[name] = np.frombuffer(entry["data"], SAFETENSORS_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def _is_tensor(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, np.ndarray)
