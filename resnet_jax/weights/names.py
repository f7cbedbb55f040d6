"""Our variables under the names of another library, looked up in the tables of :mod:`.conventions`."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from flax.traverse_util import flatten_dict

from resnet_jax.errors import UsageError, unknown
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.layout import unstack
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.conventions import FORMATS, LEAVES, Convention

_Value = TypeVar("_Value")

#: Maximum number of words in a prefix.
_MOST_WORDS = 8


def name_map(model: ResNet, format: str) -> dict[str, str]:
    """Return the foreign name of every variable of ``model``, as a bijection.

    Args:
        model: the network; only the shapes of its variables are computed, and nothing is allocated.
        format: a key of :data:`resnet_jax.weights.conventions.FORMATS`.

    Returns:
        ``{"params/stem/conv/kernel": "conv1.weight", ...}`` in the order of our tree.

    Raises:
        UsageError: the format is unknown, or has no names for this network or one of its variables.

    >>> from resnet_jax.models.zoo import create_model
    >>> names = name_map(create_model("resnet18"), "torchvision")
    >>> names["batch_stats/stage2/block0/shortcut/norm/mean"]
    'layer2.0.downsample.1.running_mean'
    """
    return foreign_names(flat_shapes(model), find_convention(model.config, format), format)


def foreign_names(paths: Iterable[str], convention: Convention, format: str) -> dict[str, str]:
    """Return the names of the variables at ``paths`` in ``convention``, which belongs to ``format``.

    Raises:
        UsageError: it has no name for one of them.
    """
    names = {}
    for path in paths:
        name = foreign_name(path, convention)
        if name is None:
            raise UsageError(
                f"weight format {format!r} has no name for {path}: no network of that format has such a variable"
            )
        names[path] = name
    return names


def find_convention(config: ResNetConfig, format: str) -> Convention:
    """Return the convention of ``format`` for networks with the choices of ``config``.

    Raises:
        UsageError: the format is unknown, or has no network like this one; the message names the choice that differs.
    """
    if format not in FORMATS:
        raise unknown("weight format", format, FORMATS)
    misfits = []
    for convention in FORMATS[format]:
        misfit = convention.misfit(config)
        if not misfit:
            return convention
        misfits.append(misfit)
    raise UsageError(f"weight format {format!r} has no names for a network with {', or '.join(dict.fromkeys(misfits))}")


def foreign_name(path: str, convention: Convention) -> str | None:
    """Return the name of the variable at ``path`` in ``convention``, or None if it has none.

    >>> foreign_name("params/head/kernel", FORMATS["cifar"][0])
    'linear.weight'
    """
    collection, _, rest = path.partition("/")
    if collection == "params" and (found := look_up(convention.variables, rest)):
        name, places = found
        return name.format(**places)
    module, _, leaf = rest.rpartition("/")
    found = look_up(convention.modules, module)
    if found and leaf in LEAVES.get(collection, {}):
        name, places = found
        return f"{name.format(**places)}.{LEAVES[collection][leaf]}"
    return None


def look_up(table: Mapping[str, _Value], path: str) -> tuple[_Value, dict[str, int]] | None:
    """Return the value whose template matches ``path``, and the numbers in its placeholders.

    >>> look_up({"stage{stage}/block{block}": "found"}, "stage2/block0")
    ('found', {'stage': 2, 'stage0': 1, 'block': 0, 'block1': 1})
    """
    for template, value in table.items():
        match = _pattern(template).fullmatch(path)
        if match:
            places = {}
            for place, digits in match.groupdict().items():
                places[place] = int(digits)
                places[place + ("1" if place == "block" else "0")] = int(digits) + (1 if place == "block" else -1)
            return value, places
    return None


def detect(names: Iterable[str], config: ResNetConfig, paths: Iterable[str]) -> str:
    """Return the format in which most of the variables at ``paths`` have one of ``names``; on ties, the first format.

    Raises:
        UsageError: no format has names for such a network; the message says why for each.

    >>> detect(["linear.bias"], ResNetConfig((1,), (8,)), ["params/stem/conv/kernel", "params/head/bias"])
    'cifar'
    """
    return best_fit(names, config, paths, prefixes=False).format


@dataclasses.dataclass(frozen=True)
class Fit:
    """How well names fit a network.

    Attributes:
        format: the weight format that fits best.
        prefix: the prefix that must be removed from all names, ``model.`` or empty.
        matched: how many of the network's variables are then found.
        wanted: their names in that format.
    """

    format: str
    prefix: str
    matched: int
    wanted: frozenset[str]


def best_fit(
    names: Iterable[str],
    config: ResNetConfig,
    paths: Iterable[str],
    format: str | None = None,
    *,
    prefixes: bool = True,
) -> Fit:
    """Find the format and the prefix with which most variables at ``paths`` have one of ``names``.

    Args:
        names: names in a state dict.
        config: the network.
        paths: paths of its variables.
        format: the only format to consider; None considers all.
        prefixes: whether words at the start of all names may be removed: as many as help most, on ties the fewest.

    Raises:
        UsageError: no format has names for such a network; the message says why for each.

    >>> paths = ["params/stem/conv/kernel", "params/head/bias"]
    >>> best_fit(["net.model.linear.bias", "net.model.x"], ResNetConfig((1,), (8,)), paths).prefix
    'net.model.'
    """
    given, paths, reasons = list(names), list(paths), []
    starts = ["", *(_common_prefixes(given) if prefixes else [])]
    fits: list[Fit] = []
    for candidate in FORMATS if format is None else (format,):
        try:
            wanted = frozenset(foreign_names(paths, find_convention(config, candidate), candidate).values())
        except UsageError as error:
            if format is not None:
                raise
            reasons.append(str(error))
            continue
        fits += [
            Fit(candidate, start, len(wanted & {name.removeprefix(start) for name in given}), wanted)
            for start in starts
        ]
    if not fits:
        raise UsageError("no weight format fits this network:\n  " + "\n  ".join(reasons))
    return max(fits, key=lambda fit: (fit.matched, -len(fit.prefix)))


def part_that_fits(names: Iterable[str], fit: Fit) -> tuple[str, int]:
    """Return a prefix of some of ``names`` under which more of the network is found, and how many of its variables.

    >>> fit = Fit("cifar", "", 0, frozenset(["conv1.weight", "linear.bias"]))
    >>> part_that_fits(["backbone.conv1.weight", "head.weight"], fit)
    ('backbone', 1)
    """
    counts: dict[str, int] = {}
    for name in names:
        words = name.split(".")
        for depth in range(1, min(len(words), _MOST_WORDS)):
            if ".".join(words[depth:]) in fit.wanted:
                start = ".".join(words[:depth])
                counts[start] = counts.get(start, 0) + 1
    best = max(counts, key=lambda start: counts[start], default="")
    return (best, counts[best]) if best and counts[best] > fit.matched else ("", 0)


def _common_prefixes(names: list[str]) -> list[str]:
    """Return ``a.``, ``a.b.``, ... for the words at the start of all names, each of which continues after them."""
    split = [name.split(".") for name in names]
    prefixes = []
    for depth in range(1, min([_MOST_WORDS, *map(len, split)]) if split else 1):
        if len({tuple(words[:depth]) for words in split}) > 1:
            break
        prefixes.append(".".join(split[0][:depth]) + ".")
    return prefixes


def flat_shapes(model: ResNet) -> Mapping[str, Any]:
    """Return shape and dtype of every variable by path, ``params/...`` and ``batch_stats/...``, block by block.

    No variable depends on the size of the image, so a small one is used.
    """
    config = model.config
    variables = abstract_variables(model, (32,) * config.spatial_dims + (config.in_channels,))
    return flatten_dict(unstack(variables), sep="/")


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>\\d+)", template))
