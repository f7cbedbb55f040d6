"""State dicts to variables and back: every tensor is used exactly once and every variable is set, or nothing is done.

PyTorch keeps kernels as (out, in, *window), this package as (*window, in, out); PyTorch's linear layers are (out, in),
ours (in, out). Some libraries have trailing axes of length 1, and timm's normalizer-free nets have a factor elsewhere
(:class:`resnet_jax.weights.conventions.Convention`): after a round trip, a scaled variable may differ in the last
place. Everything else differs only in name. Half-precision tensors are converted to the network's dtype (float32 unless
its choices say otherwise), which is exact; float64 is rounded to it. PyTorch's running variance is the unbiased one of
each batch, ours the biased one; for evaluation they mean the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import DataError, UsageError, unknown
from resnet_jax.models.activation import GAINS
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.layout import stack, unstack
from resnet_jax.models.paths import HEAD_BIAS, HEAD_KERNEL, STEM_KERNELS
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.conventions import FORMATS, Convention
from resnet_jax.weights.names import (
    Fit,
    best_fit,
    find_convention,
    flat_shapes,
    foreign_name,
    foreign_names,
    look_up,
    part_that_fits,
)

Variables = dict[str, Any]

_STEM_KERNELS = tuple(f"params/{path}" for path in STEM_KERNELS)
_HEAD_KERNEL = f"params/{HEAD_KERNEL}"
_HEAD = (_HEAD_KERNEL, f"params/{HEAD_BIAS}")
_HEADLESS = "there is no classifier: num_classes=0 takes the network without one"


def to_variables(
    state_dict: Mapping[str, np.ndarray],
    model: ResNet,
    format: str | None = None,
    *,
    head: Literal["exact", "new"] = "exact",
    stem: Literal["exact", "mean"] = "exact",
    fresh: Mapping[str, Any] | None = None,
) -> Variables:
    """Return the variables of ``model``, filled from ``state_dict``.

    Args:
        state_dict: arrays by foreign name, as :func:`resnet_jax.weights.files.load_state_dict` returns them. Prefixes
            common to all names (``model.``, ``backbone.``) are removed if the rest then fits.
        model: the network that they belong to.
        format: a key of :data:`resnet_jax.weights.conventions.FORMATS`; None detects it from the names.
        head: ``exact``, or ``new`` to ignore the file's classifier and use the one in ``fresh`` (for other classes;
            without ``fresh`` the network must have ``num_classes=0``).
        stem: ``exact``, or ``mean`` to accept another number of input channels: each gets the average over the file's
            channels, scaled so that an image with equal channels gives the same response.
        fresh: freshly initialized variables of ``model``, for ``head="new"``.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` with NumPy arrays, in the dtypes and the layout of ``model``.

    Raises:
        DataError: tensors are missing, left over, of another shape or not floating point, a value is not finite, or a
            variance is negative; one error lists all problems.
        UsageError: unknown format, head or stem, or ``head="new"`` for a network with a classifier but without
            ``fresh``.
    """
    for kind, value, known in (("head", head, ("exact", "new")), ("stem", stem, ("exact", "mean"))):
        if value not in known:
            raise unknown(kind, value, known)
    shapes = flat_shapes(model)
    fit = best_fit(state_dict, model.config, shapes, format)
    format = fit.format
    convention = find_convention(model.config, format)
    names = foreign_names(shapes, convention, format)
    layouts = {path: _Layout.of(path, shapes[path].shape, model.config, convention) for path in shapes}
    arrays = {name.removeprefix(fit.prefix): array for name, array in state_dict.items()}
    result: dict[str, Any] = {}
    if head == "new":
        for path in _HEAD:
            arrays.pop(foreign_name(path, convention) or "", None)
            if names.pop(path, None):
                result[path] = _fresh(fresh, path, shapes[path].shape)
    if stem == "mean":
        _average_stem(arrays, names, model.config)

    faults = _faults(arrays, names, {path: layout.foreign_shape for path, layout in layouts.items()})
    if faults:
        raise DataError(
            f"these tensors do not fit the network (weight format {format!r}), {len(faults)} faults:\n  "
            + "\n  ".join(faults)
            + (_part_hint(state_dict, fit, model.config, shapes) or _headless_hint(faults, names))
        )
    for path, name in names.items():
        with np.errstate(over="ignore"):  # the check below reports it with the name
            result[path] = np.array(layouts[path].read(arrays[name]), dtype=shapes[path].dtype, order="C")
    too_large = [fault for path, name in names.items() for fault in _unusable(path, name, result[path])]
    if too_large:
        raise DataError("these tensors are too large for the network's dtype:\n  " + "\n  ".join(too_large))
    return stack(unflatten_dict({path: result[path] for path in shapes}, sep="/"), model.config.execution)


def from_variables(variables: Mapping[str, Any], model: ResNet, format: str) -> dict[str, np.ndarray]:
    """Return the state dict that other libraries read; the inverse of :func:`to_variables`.

    Args:
        variables: ``params`` and ``batch_stats`` of ``model``.
        model: the network that they belong to.
        format: a key of :data:`resnet_jax.weights.conventions.FORMATS`.

    Returns:
        Contiguous float32 arrays (float64 for float64 parameters) by foreign name.

    Raises:
        UsageError: the format is unknown, or has no name for a variable of this network.
        DataError: ``variables`` are not those of ``model``; the differences are listed.
    """
    shapes = {path: leaf.shape for path, leaf in flat_shapes(model).items()}
    convention = find_convention(model.config, format)
    names = foreign_names(shapes, convention, format)
    flat = {path: np.asarray(leaf) for path, leaf in flatten_dict(unstack(dict(variables)), sep="/").items()}
    given = {path: leaf.shape for path, leaf in flat.items()}
    differing = sorted(path for path in {*shapes, *given} if shapes.get(path) != given.get(path))
    if differing:
        lines = [f"{path}: {given.get(path, 'none')}, need {shapes.get(path, 'none')}" for path in differing]
        raise DataError("these variables are not those of the network:\n  " + "\n  ".join(lines))
    layouts = {path: _Layout.of(path, shapes[path], model.config, convention) for path in names}
    return {name: np.asarray(layouts[path].write(flat[path]), order="C") for path, name in names.items()}


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a foreign array differs from ours: order of axes, trailing axes of length 1, a factor.

    Attributes:
        axes: the order of our axes in the foreign array.
        foreign_shape: complete shape of the foreign array.
        factor: ours divided by theirs.
    """

    axes: tuple[int, ...]
    foreign_shape: tuple[int, ...]
    factor: float

    @classmethod
    def of(cls, path: str, shape: tuple[int, ...], config: ResNetConfig, convention: Convention) -> _Layout:
        """Return the layout of the variable at ``path``; only kernels have more than one axis."""
        dims = len(shape)
        axes = (dims - 1, dims - 2, *range(dims - 2)) if dims > 1 else tuple(range(dims))
        rest = path.partition("/")[2]
        units, _ = look_up(convention.unit_axes, rest) or (0, {})
        power, _ = look_up(convention.gain_powers, rest) or (0, {})
        foreign_shape = tuple(shape[axis] for axis in axes) + (1,) * units
        return cls(axes, foreign_shape, GAINS[config.activation] ** power if power else 1.0)

    def read(self, array: np.ndarray) -> np.ndarray:
        """Return the foreign ``array`` as ours: (O, I, *window) -> (*window, I, O), times the factor."""
        ours = array.reshape(array.shape[: len(self.axes)]).transpose(np.argsort(self.axes))
        return ours if self.factor == 1.0 else ours.astype(np.float64) * self.factor

    def write(self, array: np.ndarray) -> np.ndarray:
        """Return ours as the foreign array, in the same dtype: the inverse of :meth:`read`."""
        theirs = array.transpose(self.axes).reshape(self.foreign_shape)
        return theirs if self.factor == 1.0 else (theirs.astype(np.float64) / self.factor).astype(array.dtype)


def _average_stem(arrays: dict[str, np.ndarray], names: Mapping[str, str], config: ResNetConfig) -> None:
    """Replace the first kernel in ``arrays`` by one for the network's input channels.

    Raises:
        UsageError: its weights are standardized, which would undo the scale that preserves the response.
    """
    if config.standardizes != "none":
        raise UsageError(
            f"stem='mean' would not keep the response of this network: weight_standardization is {config.standardizes}"
        )
    for path in _STEM_KERNELS:
        name = names.get(path)
        if name in arrays:
            arrays[name] = _average_channels(arrays[name], config.in_channels, config.spatial_dims)


def _average_channels(kernel: np.ndarray, channels: int, dims: int) -> np.ndarray:
    """(O, I, *window) -> (O, channels, *window) with the same sum over I; other shapes are left to the later checks."""
    if kernel.ndim != dims + 2 or kernel.shape[1] in (0, channels) or not jnp.issubdtype(kernel.dtype, jnp.floating):
        return kernel
    total = kernel.astype(np.float64).sum(axis=1, keepdims=True)
    return np.repeat(total / channels, channels, axis=1)


def _faults(
    arrays: Mapping[str, np.ndarray], names: Mapping[str, str], foreign_shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Return why ``arrays`` are not exactly the tensors in ``names``: missing, unexpected or wrong ones."""
    expected = {name: foreign_shapes[path] for path, name in names.items()}
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
    """Say what is wrong with one tensor, and what to do if the difference is intended."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return [f"{name} is {array.dtype}; need a floating-point type"]
    if array.shape == expected:
        return _unusable(path, name, array)
    fault = f"{name} is {array.shape}; need {expected}"
    if path in _HEAD and array.ndim == len(expected) and array.shape[1:] == expected[1:]:
        fault += (
            f": {array.shape[0]} classes instead of {expected[0]}; head='new' starts a new classifier, "
            f"num_classes={array.shape[0]} takes this one"
        )
    elif path in _STEM_KERNELS and array.ndim == len(expected) and array.shape[2:] == expected[2:]:
        fault += f": {array.shape[1]} input channels instead of {expected[1]}; stem='mean' averages them"
        if path == _STEM_KERNELS[0]:
            fault += f", in_channels={array.shape[1]} takes them"
    elif path == _STEM_KERNELS[0] and array.shape[:2] == expected[:2] and set(array.shape[2:]) == {3}:
        fault += ": a first convolution of 3 pixels; stem='cifar' has such a one"
    return [fault]


def _unusable(path: str, name: str, array: np.ndarray) -> list[str]:
    """Name the values of one tensor that would make every output NaN."""
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        return [f"{name}: {bad} of {array.size} values are NaN or infinite in {array.dtype}"]
    negative = int(np.count_nonzero(array < 0)) if path.startswith("batch_stats/") and path.endswith("/var") else 0
    return [f"{name}: {negative} of {array.size} variances are negative"] if negative else []


def _part_hint(state_dict: Mapping[str, np.ndarray], best: Fit, config: ResNetConfig, shapes: Mapping[str, Any]) -> str:
    """Suggest the prefix of the part of the names that contains the network, if there is one.

    The names of that part may have another format than the best one for all names.
    """
    fit, start, count = best, "", best.matched
    for format in FORMATS:
        try:
            other = best_fit(state_dict, config, shapes, format)
        except UsageError:  # there are no names for such a network
            continue
        found = part_that_fits(state_dict, other)
        if found[1] > count:
            fit, (start, count) = other, found
    if not start:
        return ""
    others = [name for name in state_dict if not name.startswith(f"{start}.")]
    shown = ", ".join(others[:4]) + (", ..." if len(others) > 4 else "")
    hint = (
        f"\n{count} of the network's {len(fit.wanted)} tensors are under {start!r}: key={start} "
        f"takes those and leaves {len(others)} aside ({shown})"
    )
    head = fit.wanted - {name.removeprefix(f"{start}.") for name in state_dict}
    if head and len(head) <= 2:
        hint += f"; {_HEADLESS}"
    return hint


def _headless_hint(faults: list[str], names: Mapping[str, str]) -> str:
    """Say how to load a network without its classifier, if nothing else is wrong."""
    head = tuple(f"missing {names[path]} " for path in _HEAD if path in names)
    return f"\n{_HEADLESS}" if head and all(fault.startswith(head) for fault in faults) else ""


def _fresh(fresh: Mapping[str, Any] | None, path: str, shape: tuple[int, ...]) -> np.ndarray:
    leaves: dict[str, Any] = flatten_dict(dict(fresh or {}), sep="/")
    leaf = leaves.get(path)
    if leaf is None or leaf.shape != shape:
        raise UsageError(f"head='new' needs fresh=, initialized variables of this network; no {path} {shape} in it")
    return np.array(leaf)
