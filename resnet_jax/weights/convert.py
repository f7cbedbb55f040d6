"""State dicts to variables and back: every tensor is used exactly once and every variable is set, or nothing is done.

PyTorch keeps kernels as (out, in, height, width), we as (height, width, in, out); its linear layers are (out, in), ours
(in, out). Everything else differs in the name only. PyTorch's running variance is the unbiased one of each batch, ours
the biased one; for evaluation they mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import DataError, UsageError, unknown
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.names import detect, flat_shapes, foreign_name, foreign_names

Variables = dict[str, Any]

_STEM_KERNEL = "params/stem/conv/kernel"
_HEAD_KERNEL = "params/head/kernel"
_HEAD = (_HEAD_KERNEL, "params/head/bias")


def to_variables(
    state_dict: Mapping[str, np.ndarray],
    model: ResNet,
    format: str | None = None,
    *,
    head: Literal["exact", "new"] = "exact",
    stem: Literal["exact", "mean"] = "exact",
    fresh: Mapping[str, Any] | None = None,
) -> Variables:
    """Return the variables of ``model`` filled from ``state_dict``.

    Args:
        state_dict: arrays by foreign name, as :func:`resnet_jax.weights.files.load_state_dict` returns them.
        model: the network they are meant for.
        format: a key of :data:`resnet_jax.weights.names.MODULES`; None finds it by the names.
        head: ``exact``, or ``new`` to leave the file's classifier aside and take the one of ``fresh`` (other classes;
            without ``fresh`` the network must have ``num_classes=0``).
        stem: ``exact``, or ``mean`` to accept another number of input channels: each gets the average over the file's
            channels, scaled so that an image with equal channels gives the same response.
        fresh: freshly initialized variables of ``model``, for ``head="new"``.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` of NumPy arrays in the dtypes of the network's parameters.

    Raises:
        DataError: tensors are missing, left over, of another shape or not floating point; one error lists them all.
        UsageError: unknown format, head or stem, or ``head="new"`` with a classifier but no ``fresh`` one.
    """
    for kind, value, known in (("head", head, ("exact", "new")), ("stem", stem, ("exact", "mean"))):
        if value not in known:
            raise unknown(kind, value, known)
    shapes = flat_shapes(model)
    format = detect(state_dict, shapes) if format is None else format
    names = foreign_names(shapes, format)
    arrays = dict(state_dict)
    result: dict[str, Any] = {}
    if head == "new":
        for path in _HEAD:
            arrays.pop(foreign_name(path, format), None)
            if names.pop(path, None):
                result[path] = _fresh(fresh, path, shapes[path].shape)
    stem_name = names[_STEM_KERNEL]
    if stem == "mean" and stem_name in arrays:
        arrays[stem_name] = _average_channels(arrays[stem_name], model.config.in_channels)

    faults = _faults(arrays, names, {path: leaf.shape for path, leaf in shapes.items()})
    if faults:
        raise DataError(
            f"these tensors do not fit the network (weight format {format!r}), {len(faults)} faults:\n  "
            + "\n  ".join(faults)
        )
    for path, name in names.items():
        result[path] = np.array(_transpose_in(arrays[name]), dtype=shapes[path].dtype, order="C")
    return unflatten_dict({path: result[path] for path in shapes}, sep="/")


def from_variables(variables: Mapping[str, Any], model: ResNet, format: str) -> dict[str, np.ndarray]:
    """Return the state dict that other libraries read; the inverse of :func:`to_variables`.

    Args:
        variables: ``params`` and ``batch_stats`` of ``model``.
        model: the network they belong to.
        format: a key of :data:`resnet_jax.weights.names.MODULES`.

    Returns:
        Contiguous float32 arrays (float64 for float64 parameters) by foreign name.

    Raises:
        UsageError: unknown format, or one that has no name for a variable of this network.
        DataError: ``variables`` are not those of ``model``; the differences are listed.
    """
    shapes = {path: leaf.shape for path, leaf in flat_shapes(model).items()}
    names = foreign_names(shapes, format)
    flat = {path: np.asarray(leaf) for path, leaf in flatten_dict(dict(variables), sep="/").items()}
    given = {path: leaf.shape for path, leaf in flat.items()}
    differing = sorted(path for path in {*shapes, *given} if shapes.get(path) != given.get(path))
    if differing:
        lines = [f"{path}: {given.get(path, 'none')}, need {shapes.get(path, 'none')}" for path in differing]
        raise DataError("these variables are not those of the network:\n  " + "\n  ".join(lines))
    return {name: np.ascontiguousarray(_transpose_out(flat[path])) for path, name in names.items()}


def _transpose_in(array: np.ndarray) -> np.ndarray:
    """(O, I, H, W) -> (H, W, I, O); (O, I) -> (I, O); vectors stay."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _transpose_out(array: np.ndarray) -> np.ndarray:
    """(H, W, I, O) -> (O, I, H, W); (I, O) -> (O, I); vectors stay."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _foreign_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]


def _average_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """(O, I, H, W) -> (O, channels, H, W) with the same sum over I; anything that is no such kernel stays a fault."""
    if kernel.ndim != 4 or kernel.shape[1] in (0, channels) or not jnp.issubdtype(kernel.dtype, jnp.floating):
        return kernel
    total = kernel.astype(np.float64).sum(axis=1, keepdims=True)
    return np.repeat(total / channels, channels, axis=1)


def _faults(
    arrays: Mapping[str, np.ndarray], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Return what keeps ``arrays`` from being exactly the tensors ``names`` asks for: missing, unexpected, wrong."""
    expected = {name: _foreign_shape(shapes[path]) for path, name in names.items()}
    missing = [f"missing {name} {shape}" for name, shape in expected.items() if name not in arrays]
    unexpected = [f"unexpected {name} {array.shape}" for name, array in arrays.items() if name not in expected]
    wrong = [
        fault
        for path, name in names.items()
        if name in arrays
        for fault in _misfits(path, name, arrays[name], expected[name])
    ]
    return missing + unexpected + wrong


def _misfits(path: str, name: str, array: np.ndarray, expected: tuple[int, ...]) -> list[str]:
    """Say what is wrong with one tensor, and what to do about the two differences that can be wanted."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return [f"{name} is {array.dtype}; need a floating-point type"]
    if array.shape == expected:
        return []
    fault = f"{name} is {array.shape}; need {expected}"
    if path in _HEAD and array.ndim == len(expected) and array.shape[1:] == expected[1:]:
        fault += f": {array.shape[0]} classes instead of {expected[0]}; head='new' starts a new classifier"
    elif path == _STEM_KERNEL and array.ndim == 4 and array.shape[2:] == expected[2:]:
        fault += f": {array.shape[1]} input channels instead of {expected[1]}; stem='mean' averages them"
    return [fault]


def _fresh(fresh: Mapping[str, Any] | None, path: str, shape: tuple[int, ...]) -> np.ndarray:
    leaves: dict[str, Any] = flatten_dict(dict(fresh or {}), sep="/")
    leaf = leaves.get(path)
    if leaf is None or leaf.shape != shape:
        raise UsageError(f"head='new' needs fresh=, initialized variables of this network; no {path} {shape} in it")
    return np.array(leaf)
