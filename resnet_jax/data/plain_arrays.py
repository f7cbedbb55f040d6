"""NumPy arrays in pickles, read without executing the pickle, for published data sets from the Python 2 years.

The pickle runs on the machine of :mod:`resnet_jax.runtime.plain_pickle`, which builds plain containers and cannot
import anything; three names of NumPy stand for builders here that make arrays of fixed-size numbers, and nothing else
does.
"""

from __future__ import annotations

import io
import math
from pickle import UnpicklingError
from typing import Any

import numpy as np

from resnet_jax.errors import DataError
from resnet_jax.runtime import plain_pickle
from resnet_jax.runtime.plain_pickle import Builders, Global, Stateful


class _Dtype(Stateful):
    """A numeric dtype: ``u1`` and a byte order."""

    def __init__(self, arguments: tuple):
        code = arguments[0] if arguments else None
        if not isinstance(code, str) or code[:1] not in ("b", "i", "u", "f") or code[1:] not in ("1", "2", "4", "8"):
            raise UnpicklingError(f"an array of {code!r}, which are no plain numbers")
        self.code, self.order = code, "|"

    def take(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise UnpicklingError("a type of numbers without a byte order")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array(Stateful):
    """An array: its shape and bytes come as its state."""

    def __init__(self, arguments: tuple):
        self.array: np.ndarray | None = None

    def take(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnpicklingError("an array without shape and bytes")
        _, shape, dtype, fortran, data = state
        data = data.encode("latin-1") if isinstance(data, str) else data  # Python 2 has one type for both
        sides = isinstance(shape, tuple) and all(isinstance(side, int) and side >= 0 for side in shape)
        if not sides or not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise UnpicklingError("an array whose shape, type or bytes are none")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise UnpicklingError(f"an array of shape {shape} with {len(data):,} bytes")
        order = "F" if fortran else "C"
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _encoded(arguments: tuple) -> bytes:
    """Stand for ``_codecs.encode``, with which Python 3 writes bytes for Python 2."""
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] not in ("latin1", "latin-1"):
        raise UnpicklingError("bytes that are written in another way than as latin-1")
    return arguments[0].encode("latin-1")


_BUILDERS: Builders = {
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    "numpy.ndarray": None,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encoded,
}


def load_plain_arrays(data: bytes, where: str) -> Any:
    """Return the contents of a pickle of plain containers and numeric arrays.

    Args:
        data: the pickle, of protocol 2 or later.
        where: where it comes from, for messages.

    Raises:
        DataError: if it requires anything else, which is refused, or is damaged.

    >>> import pickle
    >>> load_plain_arrays(pickle.dumps({"data": np.arange(3)}, protocol=2), "f")
    {'data': array([0, 1, 2])}
    >>> load_plain_arrays(pickle.dumps(print), "f")
    Traceback (most recent call last):
    resnet_jax.errors.DataError: f: this pickle is not read: refusing the global builtins.print; nothing of it was run
    """
    try:
        return _unwrapped(plain_pickle.load(io.BytesIO(data), _BUILDERS, with_bytes=True))
    except (UnpicklingError, UnicodeError, ValueError, RecursionError) as error:
        said = str(error).partition("; allowed")[0]
        raise DataError(f"{where}: this pickle is not read: {said}; nothing of it was run") from error


def _unwrapped(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.array is None:
            raise UnpicklingError("an array without shape and bytes")
        return value.array
    if isinstance(value, (_Dtype, Global)):
        raise UnpicklingError("a name where a value should be")
    if isinstance(value, dict):
        return {key: _unwrapped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_unwrapped(item) for item in value)
    return value
