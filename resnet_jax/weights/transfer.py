"""Variables of one network as the start of another: every variable is used exactly once and every one is set.

The two may differ in what does not change shapes (activation, dropout, the scope of batch norm). Another number of
classes or of input channels is an error, unless it is asked for; the words are those of
:func:`resnet_jax.weights.convert.to_variables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UsageError, unknown
from resnet_jax.models.layout import stack, unstack
from resnet_jax.models.paths import HEAD_BIAS, HEAD_KERNEL, STEM_KERNELS
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.names import flat_shapes

Variables = dict[str, Any]

HEADS = ("exact", "new")
STEMS = ("exact", "mean")
_HEAD = (f"params/{HEAD_KERNEL}", f"params/{HEAD_BIAS}")
_STEM = tuple(f"params/{path}" for path in STEM_KERNELS)


def transfer(
    source: Mapping[str, Any], model: ResNet, fresh: Mapping[str, Any], *, head: str = "exact", stem: str = "exact"
) -> Variables:
    """Return variables of ``model`` with the values of ``source``.

    Args:
        source: ``params`` and ``batch_stats`` of another network.
        model: the network they are wanted for.
        fresh: its own variables, initialized; the new classifier is theirs.
        head: ``exact``, or ``new`` to leave the classifier of ``source`` aside and take the one of ``fresh``.
        stem: ``exact``, or ``mean`` to accept another number of input channels: each gets the average over those of
            ``source``, scaled so that an image with equal channels gives the same response.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` of NumPy arrays, in the dtypes and the layout of ``model``.

    Raises:
        UsageError: they do not fit, see :func:`require_fit`.
    """
    require_fit(source, model, head=head, stem=stem)
    arrays = _flat(source)
    if head == "new":
        arrays |= {path: leaf for path, leaf in _flat(fresh).items() if path in _HEAD}
    result: dict[str, Any] = {}
    for path, leaf in flat_shapes(model).items():
        array = arrays[path]
        if array.shape != leaf.shape:  # only the stem's first kernel can still differ, in its input channels
            array = _average_channels(np.asarray(array), leaf.shape[-2])
        result[path] = np.array(array, dtype=leaf.dtype)
    return {"batch_stats": {}, **stack(unflatten_dict(result, sep="/"), model.config.execution)}


def require_fit(source: Mapping[str, Any], model: ResNet, *, head: str = "exact", stem: str = "exact") -> None:
    """Refuse what :func:`transfer` cannot do, all of it at once.

    Raises:
        UsageError: unknown ``head`` or ``stem``, or variables that are missing, left over or of another shape.
    """
    for kind, value, known in (("head", head, HEADS), ("stem", stem, STEMS)):
        if value not in known:
            raise unknown(kind, value, known)
    given = {path: tuple(leaf.shape) for path, leaf in _flat(source).items()}
    wanted = {path: tuple(leaf.shape) for path, leaf in flat_shapes(model).items()}
    if head == "new":
        given, wanted = ({path: s for path, s in shapes.items() if path not in _HEAD} for shapes in (given, wanted))
    if stem == "mean":
        _forgive_channels(given, wanted, model)
    faults = [f"missing {path} {shape}" for path, shape in wanted.items() if path not in given]
    faults += [f"unexpected {path} {shape}" for path, shape in given.items() if path not in wanted]
    faults += [_misfit(path, given[path], shape) for path, shape in wanted.items() if given.get(path, shape) != shape]
    if faults:
        raise UsageError(f"these variables do not fit the network, {len(faults)} faults:\n  " + "\n  ".join(faults))


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    return flatten_dict(unstack(dict(variables)), sep="/")


def _forgive_channels(given: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], model: ResNet) -> None:
    for path in _STEM:
        if path in given and path in wanted and _channels_differ(given[path], wanted[path]):
            if model.config.standardizes != "none":
                raise UsageError(
                    "stem='mean' would not keep the response of this network: weight_standardization is "
                    f"{model.config.standardizes}"
                )
            given[path] = wanted[path]


def _channels_differ(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    same_rest = len(given) == len(wanted) and (*given[:-2], given[-1]) == (*wanted[:-2], wanted[-1])
    return same_rest and given != wanted


def _misfit(path: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    fault = f"{path} is {given}; need {wanted}"
    if path in _HEAD and given[:-1] == wanted[:-1]:
        fault += f": {given[-1]} classes instead of {wanted[-1]}; head 'new' starts a new classifier"
    elif path in _STEM and _channels_differ(given, wanted):
        fault += f": {given[-2]} input channels instead of {wanted[-2]}; stem 'mean' averages them"
    return fault


def _average_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """(*window, I, O) -> (*window, channels, O) with the same sum over I."""
    total = kernel.astype(np.float64).sum(axis=-2, keepdims=True)
    return np.repeat(total / channels, channels, axis=-2)
