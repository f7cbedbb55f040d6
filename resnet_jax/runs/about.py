"""What a recipe says about itself: where it comes from, what was published, and what to expect here.

It does not affect a run, so it is not part of :class:`~resnet_jax.runs.config.RunConfig`. In a recipe file it is the
section ``about``; figures are as in ``summary.json``, fractions for accuracies:

    about:
      what: ResNet-20, 15 epochs
      source: this project
      published: {metric: accuracy, value: 0.9125}
      expected: {metric: accuracy, value: 0.9916, tolerance: 0.012, seeds: 1}
      machine: 2 CPU cores
      minutes: 0.5
      command: resnet-jax train digits
      measured: 10 epochs on other images: 79.30 %
      differs: [what of the published recipe is not met, and why]
      smoke: {data.source: digits, train.length: 20 steps}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_jax.errors import UsageError, unknown
from resnet_jax.fields import AtLeast1, Positive, check_fields, check_value, field_hints, options_of
from resnet_jax.runs.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure that others reported."""

    metric: str
    """The metric as summary.json spells it, such as accuracy."""
    value: float
    """The value of the metric; accuracies are fractions."""

    def __post_init__(self) -> None:
        """Reject anything that is not a figure."""
        _require_figure(self.metric, self.value, "about.published")


@dataclasses.dataclass(frozen=True)
class Expected:
    """The figure to expect on the test split; ``train RECIPE --check`` compares with it."""

    metric: str
    """The metric as summary.json spells it, such as accuracy."""
    value: float
    """Mean over the seeds that were run."""
    tolerance: Positive
    """How far a single run may be from it."""
    seeds: AtLeast1 = 1
    """Number of seeds in the mean."""

    def __post_init__(self) -> None:
        """Reject anything that is not a figure."""
        check_fields(self, "about.expected.")
        _require_figure(self.metric, self.value, "about.expected")


@dataclasses.dataclass(frozen=True)
class About:
    """The section ``about`` of a recipe file.

    Raises:
        UsageError: for an invalid value.
    """

    what: str
    """Network, data and length, in a few words."""
    source: str
    """The paper, with section or table; or this project."""
    published: Published | None = None
    """The figure that others reported. None: nothing that was verified."""
    expected: Expected | None = None
    """The figure reached here. None until it was run at full length."""
    machine: str | None = None
    """The machine on which expected and minutes were measured."""
    minutes: Positive | None = None
    """Training time on that machine."""
    command: str | None = None
    """The command to type. None: resnet-jax train RECIPE."""
    measured: str | None = None
    """What has been measured so far, if not at full length."""
    differs: tuple[str, ...] = ()
    """Differences from the published recipe, and the reasons."""
    smoke: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options, such as train.length, with which it runs in seconds on data that is always available."""

    def __post_init__(self) -> None:
        """Check every value."""
        check_fields(self, "about.")
        for name in ("what", "source"):
            if not getattr(self, name).strip():
                raise UsageError(f"about.{name} must say something, and is empty")
        options = options_of(RunConfig)
        for key in self.smoke:
            if key not in options:
                raise unknown("option in about.smoke", key, options)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**dataclasses.asdict(self), "differs": list(self.differs), "smoke": dict(self.smoke)}


def _require_figure(metric: str, value: float, where: str) -> None:
    if not math.isfinite(value):
        raise UsageError(f"{where}.value must be a finite number, got {value!r}")
    if metric == "accuracy" and not 0 <= value <= 1:
        raise UsageError(f"{where}.value of an accuracy is a share in [0, 1], such as 0.9125, got {value!r}")


_FIGURES = {"published": Published, "expected": Expected}


def read_about(raw: Any, *, where: str) -> About:
    """Validate the section ``about`` of a recipe.

    Args:
        raw: the section as it was read.
        where: the recipe, for messages.

    Raises:
        UsageError: for wrong keys or values; lists all of them, with the nearest valid keys.

    >>> read_about({"what": "a test", "source": "nobody"}, where="x").published is None
    True
    >>> read_about({"what": "a test", "source": "nobody", "sorce": 1}, where="x")
    Traceback (most recent call last):
    resnet_jax.errors.UsageError: x: unknown about key 'sorce'; did you mean 'source'? Known: what, source, published, \
expected, machine, minutes, command, measured, differs, smoke
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(raw, dict):
        raise UsageError(f"{where}: about must be a mapping with keys such as source and expected, got {raw!r}")
    parts = (("about", About, raw), *((f"about.{name}", kind, raw.get(name)) for name, kind in _FIGURES.items()))
    for name, kind, values in parts:
        for key in values if isinstance(values, dict) else ():
            if key not in (known := field_hints(kind)):
                raise UsageError(f"{where}: {unknown(f'{name} key', key, known)}")
    try:
        return TypeAdapter(About).validate_python(raw)
    except ValidationError as error:
        details = []
        for item in error.errors():
            ours = item.get("ctx", {}).get("error")
            key = ".".join(["about", *(str(part) for part in item["loc"])])
            missing = f"{key} is missing" if item["type"] == "missing" else None
            ours = ours or missing or _out_of_range(key, item["loc"], item["input"])
            details.append(str(ours or f"{key}: {item['msg']}, got {item['input']!r}"))
        raise UsageError(f"{where}: " + "; ".join(details)) from error


def _out_of_range(key: str, where: Sequence[Any], value: Any) -> UsageError | None:
    """Return what is wrong with a number, in the words used for all options."""
    kind = About if len(where) == 1 else _FIGURES.get(where[0])
    hint = None if kind is None else field_hints(kind).get(where[-1])
    try:
        if isinstance(value, (int, float)):
            check_value(key, value, hint)
    except UsageError as error:
        return error
    return None
