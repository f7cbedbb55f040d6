"""The type checker that tests put on every function of the numeric floors: shapes and dtypes at every call.

NumPy's arrays pass for JAX's, as they do for JAX. Constructors of dataclasses are left out: what they refuse, and how,
is tested, and states also hold what only stands for an array (shapes, shardings). An int is a float, as in Python.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

_check: Any = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({jax.Array: jax.Array | np.ndarray}))
)


def checked(function: Any) -> Any:
    """Return ``function`` with its annotations checked; a constructor as it is."""
    if getattr(function, "__name__", "") == "__init__":
        return function
    for name, hint in getattr(function, "__annotations__", {}).items():
        if getattr(hint, "array_type", None) is jax.Array:
            function.__annotations__[name] = hint.dtype[jax.Array | np.ndarray, hint.dim_str]
        elif isinstance(hint, str):
            function.__annotations__[name] = hint.replace("[Array,", "[Array | __import__('numpy').ndarray,")
    return _check(function)
