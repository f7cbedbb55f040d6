"""Use the variables of one network as the start of another: every variable is used exactly once and all are set.

The two may differ in choices that do not change shapes (activation, dropout, the scope of batch norm). Other numbers of
classes, input channels or dimensions are an error unless requested, with the same options as
:func:`resnet_jax.weights.convert.to_variables`.

**Volumes from images** (``inflate``). A volume whose slices along depth, its first axis, are all equal gives an
inflated network the features of one slice:

- with ``centre`` everywhere, and therefore the same outputs: convolutions look only at the middle slice, and all slices
  that pooling and norms see are equal;
- with ``mean`` where no window has met the zero padding, which counts as slices of zeros: at depth index i of a map of
  stride s and receptive field r, if (r - 1) / 2 <= i s <= D - 1 - (r - 1) / 2 of D slices. Norms must not look at the
  ends either, so they must use running averages or be absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UsageError, unknown
from resnet_jax.models.layout import stack, unstack
from resnet_jax.models.paths import HEAD_BIAS, HEAD_KERNEL, STEM_KERNELS
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.kernels import (
    average_channels,
    inflate as inflated,
    place_channels,
    repeat_channels,
    require_bands,
)
from resnet_jax.weights.names import flat_shapes

Variables = dict[str, Any]

HEADS = ("exact", "new")
STEMS = ("exact", "mean", "repeat", "bands")
INFLATIONS = ("none", "mean", "centre")
_HEAD = (f"params/{HEAD_KERNEL}", f"params/{HEAD_BIAS}")
_STEM = tuple(f"params/{path}" for path in STEM_KERNELS)


def transfer(
    source: Mapping[str, Any],
    model: ResNet,
    fresh: Mapping[str, Any],
    *,
    head: str = "exact",
    stem: str = "exact",
    bands: Sequence[int] = (),
    inflate: str = "none",
) -> Variables:
    """Return variables of ``model`` with the values of ``source``.

    Args:
        source: ``params`` and ``batch_stats`` of another network.
        model: the network to initialize.
        fresh: its own initialized variables, from which a new classifier is taken.
        head: ``exact``, or ``new`` to ignore the classifier of ``source`` and use the one in ``fresh``.
        stem: ``exact``; ``mean`` to accept another number of input channels, where each gets the average over those of
            ``source``, scaled so that an image with equal channels gives the same response; ``repeat``: the kernels of
            ``source`` in turn, scaled in the same way; or ``bands``: each kernel where ``bands`` says, with other
            channels starting at zero.
        bands: for stem ``bands``: the channels of ``model`` that correspond to those of ``source``, in their order.
        inflate: ``mean`` or ``centre`` to turn kernels for images into kernels for volumes; see the module and
            :func:`resnet_jax.weights.kernels.inflate`. Depth is the first axis.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` with NumPy arrays, in the dtypes and the layout of ``model``.

    Raises:
        UsageError: they do not fit; see :func:`require_fit`.
    """
    require_fit(source, model, head=head, stem=stem, bands=bands, inflate=inflate)
    arrays = _flat(source)
    if head == "new":
        arrays |= {path: leaf for path, leaf in _flat(fresh).items() if path in _HEAD}
    result: dict[str, Any] = {}
    for path, leaf in flat_shapes(model).items():
        array = arrays[path]
        if array.ndim < len(leaf.shape):
            array = inflated(np.asarray(array), leaf.shape[0], inflate)
        if array.shape != leaf.shape:  # only the stem's first kernel can still differ, in its input channels
            array = _other_channels(np.asarray(array), leaf.shape[-2], stem, bands)
        result[path] = np.array(array, dtype=leaf.dtype)
    return {"batch_stats": {}, **stack(unflatten_dict(result, sep="/"), model.config.execution)}


def require_fit(
    source: Mapping[str, Any],
    model: ResNet,
    *,
    head: str = "exact",
    stem: str = "exact",
    bands: Sequence[int] = (),
    inflate: str = "none",
) -> None:
    """Reject everything that :func:`transfer` cannot do, in one error.

    Raises:
        UsageError: unknown ``head``, ``stem`` or ``inflate``, invalid ``bands``, or variables that are missing, left
            over or of another shape.
    """
    for kind, value, known in (("head", head, HEADS), ("stem", stem, STEMS), ("inflate", inflate, INFLATIONS)):
        if value not in known:
            raise unknown(kind, value, known)
    given = {path: tuple(leaf.shape) for path, leaf in _flat(source).items()}
    wanted = {path: tuple(leaf.shape) for path, leaf in flat_shapes(model).items()}
    if head == "new":
        given, wanted = ({path: s for path, s in shapes.items() if path not in _HEAD} for shapes in (given, wanted))
    if inflate != "none":
        _forgive_depth(given, wanted, model, inflate)
    if stem != "exact":
        _forgive_channels(given, wanted, model, stem, bands)
    faults = [f"missing {path} {shape}" for path, shape in wanted.items() if path not in given]
    faults += [f"unexpected {path} {shape}" for path, shape in given.items() if path not in wanted]
    faults += [_misfit(path, given[path], shape) for path, shape in wanted.items() if given.get(path, shape) != shape]
    if faults:
        raise UsageError(f"these variables do not fit the network, {len(faults)} faults:\n  " + "\n  ".join(faults))


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    return flatten_dict(unstack(dict(variables)), sep="/")


def _forgive_depth(
    given: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], model: ResNet, how: str
) -> None:
    for path, shape in wanted.items():
        if path in given and path.endswith("/kernel") and len(shape) == 5 and len(given[path]) == 4:
            if model.config.standardizes != "none" and shape[0] > 1:
                raise _not_kept(f"inflate={how!r}", model)
            given[path] = (shape[0], *given[path])


def _not_kept(what: str, model: ResNet) -> UsageError:
    return UsageError(
        f"{what} would not keep the response of this network: weight_standardization is {model.config.standardizes}"
    )


def _forgive_channels(
    given: dict[str, tuple[int, ...]],
    wanted: dict[str, tuple[int, ...]],
    model: ResNet,
    stem: str,
    bands: Sequence[int],
) -> None:
    for path in _STEM:
        if path in given and path in wanted and _channels_differ(given[path], wanted[path]):
            if model.config.standardizes != "none":
                raise _not_kept(f"stem={stem!r}", model)
            if stem == "bands":
                require_bands(bands, given[path][-2], wanted[path][-2])
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
    elif len(wanted) == 5 and given == wanted[1:]:
        fault += ": a kernel of images; inflate 'mean' or 'centre' makes one of volumes of it"
    return fault


def _other_channels(kernel: np.ndarray, channels: int, stem: str, bands: Sequence[int]) -> np.ndarray:
    match stem:
        case "repeat":
            return repeat_channels(kernel, channels)
        case "bands":
            return place_channels(kernel, channels, bands)
        case _:
            return average_channels(kernel, channels)
