"""The space of a search: which options vary, and over which values; read from YAML and checked against the recipe.

.. code-block:: yaml

    optim.learning_rate: {log: [0.01, 1]}       # a factor is as likely as any other
    optim.momentum: {range: [0.8, 0.99]}
    data.augment.mixup.alpha: {range: [0.1, 1]}  # of a transform that the recipe has
    data.repeats: {int: [1, 3]}
    model.norm: {choice: [batch, group]}
    seed: each                                  # trial n has the recipe's seed + n; same (default): the recipe's seed
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import yaml

from resnet_jax.errors import UsageError, either, unknown
from resnet_jax.fields import SAME_RESULT, is_marked, options_of
from resnet_jax.runs.carried import with_options
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.recipes import read_utf8
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_yaml import load_yaml_and_keys

if TYPE_CHECKING:  # Optuna is an extra
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Kind: TypeAlias = Literal["log", "range", "int", "choice"]
Seeds: TypeAlias = Literal["same", "each"]

#: The syntax of each kind.
FORMS = {
    "log": "{log: [0.001, 1]}",
    "range": "{range: [0, 0.5]}",
    "int": "{int: [1, 5]}",
    "choice": "{choice: [a, b]}",
}
SEED = "seed"
#: Options that determine what the trials are compared by, or how long they are.
_COMPARED_BY = (
    "data.source", "data.val_fraction", "data.test_fraction", "data.split_seed", "data.split", "data.group_by",
    "data.fold", "data.subset", "data.class_pattern", "data.class_list", "task.kind", "train.length", "train.limit",
)  # fmt: skip
#: Arguments of transforms: data.augment.TRANSFORM.ARGUMENT.
_AUGMENT = "data.augment."
#: Options that say where a run starts; every trial starts from scratch.
_BEGINNING = ("recipe", "init_from", "init_head", "init_stem", "init_bands", "init_inflate")


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One option that varies.

    Attributes:
        option: dotted name, as ``optim.learning_rate``.
        kind: how it is drawn.
        values: the bounds of a range, or the choices.
    """

    option: str
    kind: Kind
    values: tuple[Any, ...]

    def distribution(self) -> BaseDistribution:
        """Return the Optuna distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        match self.kind:
            case "log" | "range":
                return FloatDistribution(*self.values, log=self.kind == "log")
            case "int":
                return IntDistribution(*self.values)
            case "choice":
                return CategoricalDistribution([_key(value) for value in self.values])

    def suggest(self, trial: Trial) -> None:
        """Draw a value for a trial that has none."""
        match self.kind:
            case "log" | "range":
                trial.suggest_float(self.option, *self.values, log=self.kind == "log")
            case "int":
                trial.suggest_int(self.option, *self.values)
            case "choice":
                trial.suggest_categorical(self.option, [_key(value) for value in self.values])

    def value(self, drawn: Any) -> Any:
        """Return the option's value for Optuna's value."""
        return next((value for value in self.values if _key(value) == drawn), drawn) if self.is_choice else drawn

    def drawn(self, value: Any) -> Any:
        """Return Optuna's value for a value of the option."""
        return _key(value) if self.is_choice else value

    @property
    def is_choice(self) -> bool:
        """Whether the values are listed."""
        return self.kind == "choice"


def _key(value: Any) -> Any:
    """Return a choice as Optuna stores it: lists as JSON."""
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) else value


@dataclasses.dataclass(frozen=True)
class Space:
    """What a search varies.

    Attributes:
        dimensions: the options.
        seeds: seeds of the trials: ``same``, the recipe's seed, or ``each``, the recipe's seed + the number of the
            trial.
    """

    dimensions: tuple[Dimension, ...]
    seeds: Seeds = "same"

    @property
    def options(self) -> tuple[str, ...]:
        """The options that vary."""
        return tuple(one.option for one in self.dimensions)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the Optuna distributions, by option."""
        return {one.option: one.distribution() for one in self.dimensions}

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the options for Optuna's values."""
        return {one.option: one.value(drawn[one.option]) for one in self.dimensions if one.option in drawn}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, which :func:`parse_space` parses."""
        found: dict[str, Any] = {one.option: {one.kind: list(one.values)} for one in self.dimensions}
        return found if self.seeds == "same" else {**found, SEED: self.seeds}


def searchable() -> dict[str, Any]:
    """Return the options that a search can vary, with their annotations.

    >>> "optim.learning_rate" in searchable(), "train.length" in searchable(), "train.log_every" in searchable()
    (True, False, False)
    """
    refused = (*_COMPARED_BY, *_BEGINNING)
    return {
        option: hint
        for option, hint in options_of(RunConfig).items()
        if option not in refused and not is_marked(hint, SAME_RESULT)
    }


def read_space(path: Path, base: RunConfig) -> Space:
    """Read a space file and check it against a recipe.

    Args:
        path: the YAML file.
        base: the recipe; every bound of a range and every choice is tested in it.

    Raises:
        UsageError: if there is no such file, it is malformed, an option does not exist or cannot be searched, or a
            value is invalid; the message has the file, the option, and what is expected.
    """
    try:
        raw, names = load_yaml_and_keys(read_utf8(user_path(path)))
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{path} has {twice[0]} twice")
    return parse_space(raw, base, where=str(path))


def parse_space(raw: Any, base: RunConfig, *, where: str) -> Space:
    """Return the space for a mapping; see :func:`read_space`."""
    if not isinstance(raw, dict) or not raw:
        raise UsageError(f"{where} must be a mapping of options to values, as 'optim.learning_rate: {FORMS['log']}'")
    seeds = raw.get(SEED, "same")
    if not isinstance(seeds, dict):
        raw = {option: given for option, given in raw.items() if option != SEED}
        if seeds not in get_args(Seeds):
            raise UsageError(
                f"{where}: seed must be same (the recipe's for all trials), each (another for every trial) or "
                f"{{choice: [0, 1]}}, got {seeds!r}"
            )
    space = Space(
        tuple(_dimension(str(option), given, where) for option, given in raw.items()),
        "each" if seeds == "each" else "same",
    )
    if not space.dimensions:
        raise UsageError(f"{where} varies nothing: add an option, as 'optim.learning_rate: {FORMS['log']}'")
    for one in space.dimensions:
        for value in one.values:
            try:
                with_options(base, {one.option: value})
            except UsageError as error:
                raise UsageError(f"{where}: {str(error).removeprefix('options: ')}") from error
    return space


def _dimension(option: str, given: Any, where: str) -> Dimension:
    known = searchable()
    if option in _COMPARED_BY:
        raise UsageError(
            f"{where}: {option} cannot be searched: all trials of a search are compared on the same images after the "
            f"same length. Give it on the command line"
        )
    if option in _BEGINNING:
        raise UsageError(f"{where}: {option} cannot be searched: every trial starts from scratch with the same recipe")
    if option not in known and not option.startswith(_AUGMENT):
        if option in options_of(RunConfig):
            raise UsageError(f"{where}: {option} cannot be searched: it changes nothing of the result")
        raise UsageError(f"{where}: {unknown('option', option, known, '`resnet-jax train RECIPE --help`')}")
    name = f"{where}: {option}"
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in FORMS:
        raise UsageError(f"{name} must be one of {either(list(FORMS.values()))}, got {given!r}")
    kind, values = next(iter(given.items()))
    if not isinstance(values, list):
        raise UsageError(f"{name} must be written as {FORMS[kind]}, got {given!r}")
    if kind == "choice":
        if len(values) < 2 or len({_key(value) for value in values}) < len(values):
            raise UsageError(f"{name}: a choice has two or more different values, got {values!r}")
        return Dimension(option, "choice", tuple(values))
    return Dimension(option, kind, _ends(name, kind, values))


def _ends(name: str, kind: str, values: list[Any]) -> tuple[float, float] | tuple[int, int]:
    """Return the bounds of a range."""
    values = [_number(value) for value in values]
    wanted = int if kind == "int" else (int, float)
    fits = len(values) == 2 and all(isinstance(v, wanted) and not isinstance(v, bool) for v in values)
    if not fits or not all(math.isfinite(v) for v in values) or not values[0] < values[1]:
        numbers = "whole numbers" if kind == "int" else "numbers"
        raise UsageError(f"{name}: {kind} takes two {numbers}, the smaller first, got {values!r}")
    if kind == "log" and values[0] <= 0:
        raise UsageError(f"{name}: log takes positive numbers, got {values!r}; use range, or a choice with 0 in it")
    low, high = values
    return (low, high) if kind == "int" else (float(low), float(high))


def _number(value: Any) -> Any:
    """Return 1e-3, which YAML parses as a string, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
