"""Fields of configurations checked against their annotations: a value of a ``Literal``, a number in its range.

A range is written once, in the annotation (``epochs: AtLeast1``), and read by this check, by pydantic, which reads
YAML, and by the command line's help.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt

from resnet_jax.errors import UsageError, unknown

AtLeast0: TypeAlias = Annotated[int, Ge(0)]
AtLeast1: TypeAlias = Annotated[int, Ge(1)]
#: A share that cannot be all: [0, 1).
BelowOne: TypeAlias = Annotated[float, Interval(ge=0.0, lt=1.0)]
#: A share or a probability: [0, 1].
Share: TypeAlias = Annotated[float, Interval(ge=0.0, le=1.0)]
Positive: TypeAlias = Annotated[float, Gt(0.0)]
NotNegative: TypeAlias = Annotated[float, Ge(0.0)]


def check_fields(config: Any, prefix: str = "") -> None:
    """Check the fields of a frozen dataclass: values of ``Literal``s, and numbers of annotated ranges.

    None passes where the annotation has it. Other types are not looked at.

    Args:
        config: the dataclass.
        prefix: what stands before a field's name in messages, such as ``train.``.

    Raises:
        UsageError: the first field that does not fit, with what would.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     size: AtLeast1 = 1
    ...     rule: Literal["sum", "mean"] | None = None
    >>> check_fields(Config())
    >>> check_fields(Config(size=0), "data.")
    Traceback (most recent call last):
    resnet_jax.errors.UsageError: data.size must be 1 or more, got 0
    >>> check_fields(Config(rule="meen"))
    Traceback (most recent call last):
    resnet_jax.errors.UsageError: unknown rule 'meen'; did you mean 'mean'? Known: sum, mean
    """
    for name, hint in _hints(type(config)).items():
        _check(f"{prefix}{name}", getattr(config, name), hint)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _check(name: str, value: Any, hint: Any) -> None:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        arms = get_args(hint)
        if value is None and type(None) in arms:
            return
        arms = [arm for arm in arms if arm is not type(None)]
        if len(arms) == 1:
            _check(name, value, arms[0])
    elif origin is Literal:
        if value not in get_args(hint):
            raise unknown(name, value, [str(choice) for choice in get_args(hint)])
    elif origin is Annotated:
        inner, *extras = get_args(hint)
        _check(name, value, inner)
        for extra in extras:
            if isinstance(extra, (Ge, Gt, Le, Lt, Interval)):
                _check_range(name, value, extra)
    elif origin is tuple and isinstance(value, tuple):
        for item in value:
            _check(name, item, get_args(hint)[0])


def _check_range(name: str, value: Any, limits: Ge | Gt | Le | Lt | Interval) -> None:
    ge, gt, le, lt = (getattr(limits, bound, None) for bound in ("ge", "gt", "le", "lt"))
    holds = (
        isinstance(value, (int, float))
        and math.isfinite(value)
        and (ge is None or value >= ge)
        and (gt is None or value > gt)
        and (le is None or value <= le)
        and (lt is None or value < lt)
    )
    if not holds:
        raise UsageError(f"{name} must be {_say(ge, gt, le, lt)}, got {value!r}")


def _say(ge: Any, gt: Any, le: Any, lt: Any) -> str:
    """Return a range in words.

    >>> _say(1, None, None, None), _say(0.0, None, None, 1.0), _say(None, 0.0, None, None)
    ('1 or more', 'in [0, 1)', 'positive')
    """
    if le is None and lt is None:
        if ge is not None:
            return f"{ge:g} or more"
        return "positive" if gt == 0 else f"above {gt:g}"
    if ge is None and gt is None:
        return f"at most {le:g}" if le is not None else f"below {lt:g}"
    low = f"[{ge:g}" if ge is not None else f"({gt:g}"
    return f"in {low}, {f'{le:g}]' if le is not None else f'{lt:g})'}"
