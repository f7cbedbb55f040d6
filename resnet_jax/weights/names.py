"""The names other libraries give to our variables, as data: one row per module, one per kind of leaf."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from resnet_jax.errors import UsageError, unknown
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.resnet import ResNet

_COMMON = {
    r"stem/conv": r"conv1",
    r"stem/norm": r"bn1",
    r"stage(\d+)/block(\d+)/branch/conv(\d+)": r"layer\1.\2.conv\3",
    r"stage(\d+)/block(\d+)/branch/norm(\d+)": r"layer\1.\2.bn\3",
}

#: Foreign module names by format: a pattern of our module path, and the name it expands to.
MODULES: dict[str, dict[str, str]] = {
    # torchvision/models/resnet.py
    "torchvision": {
        **_COMMON,
        r"stage(\d+)/block(\d+)/shortcut/conv": r"layer\1.\2.downsample.0",
        r"stage(\d+)/block(\d+)/shortcut/norm": r"layer\1.\2.downsample.1",
        r"head": r"fc",
    },
    # akamaster/pytorch_resnet_cifar10, resnet.py
    "cifar": {
        **_COMMON,
        r"stage(\d+)/block(\d+)/shortcut/conv": r"layer\1.\2.shortcut.0",
        r"stage(\d+)/block(\d+)/shortcut/norm": r"layer\1.\2.shortcut.1",
        r"head": r"linear",
    },
}

MODULES["timm"] = MODULES["torchvision"]  # timm's plain ResNets have the same names

#: PyTorch's name for each of our leaves, by collection.
LEAVES: dict[str, dict[str, str]] = {
    "params": {"kernel": "weight", "scale": "weight", "bias": "bias"},
    "batch_stats": {"mean": "running_mean", "var": "running_var"},
}


def name_map(model: ResNet, format: str) -> dict[str, str]:
    """Return the foreign name of every variable of ``model``, a bijection.

    Args:
        model: the network; its variables are looked up as shapes, nothing is allocated.
        format: a key of :data:`MODULES`.

    Returns:
        ``{"params/stem/conv/kernel": "conv1.weight", ...}`` in the order of our tree.

    Raises:
        UsageError: unknown format, or a variable it has no name for.

    >>> from resnet_jax.models.zoo import create_model
    >>> names = name_map(create_model("resnet18"), "torchvision")
    >>> names["batch_stats/stage2/block0/shortcut/norm/mean"]
    'layer2.0.downsample.1.running_mean'
    """
    return foreign_names(flat_shapes(model), format)


def foreign_names(paths: Iterable[str], format: str) -> dict[str, str]:
    """Return what ``format`` calls the variables at ``paths``; see :func:`name_map`.

    Raises:
        UsageError: unknown format, or a variable it has no name for.
    """
    if format not in MODULES:
        raise unknown("weight format", format, MODULES)
    return {path: foreign_name(path, format) for path in paths}


def foreign_name(path: str, format: str) -> str:
    """Return what ``format`` calls the variable at ``path``.

    Raises:
        UsageError: it has no such thing.

    >>> foreign_name("params/head/kernel", "cifar")
    'linear.weight'
    """
    collection, _, rest = path.partition("/")
    module, _, leaf = rest.rpartition("/")
    for pattern, replacement in MODULES[format].items():
        match = re.fullmatch(pattern, module)
        if match and leaf in LEAVES.get(collection, {}):
            return f"{match.expand(replacement)}.{LEAVES[collection][leaf]}"
    raise UsageError(f"weight format {format!r} has no name for {path}: no network of that format has such a variable")


def detect(names: Iterable[str], paths: Iterable[str]) -> str:
    """Return the format in which most of the variables at ``paths`` are called by one of ``names``; ties: the first.

    >>> detect(["conv1.weight", "linear.bias"], ["params/stem/conv/kernel", "params/head/bias"])
    'cifar'
    """
    given, paths = set(names), list(paths)
    return max(MODULES, key=lambda format: len(given & set(foreign_names(paths, format).values())))


def flat_shapes(model: ResNet) -> Mapping[str, Any]:
    """Return shape and dtype of every variable by path, ``params/...`` and ``batch_stats/...``.

    Foreign kernels are two-dimensional, and no variable depends on the size of the image: a small one serves.
    """
    return flatten_dict(abstract_variables(model, (32, 32, model.config.in_channels)), sep="/")
