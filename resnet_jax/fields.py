"""Fields of configurations: checks against their annotations, and other information read from their definitions.

A range is written once, in the annotation (``epochs: AtLeast1``), and used by :func:`check_fields`, by pydantic, which
reads YAML, and by the command line's help. The same holds for the values of a ``Literal``, the text under a field, and
the marks :data:`NOT_AN_OPTION` and :data:`SAME_RESULT`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt

from resnet_jax.errors import UsageError, either, unknown

AtLeast0: TypeAlias = Annotated[int, Ge(0)]
AtLeast1: TypeAlias = Annotated[int, Ge(1)]
#: A fraction below 1: [0, 1).
BelowOne: TypeAlias = Annotated[float, Interval(ge=0.0, lt=1.0)]
#: A fraction or a probability: [0, 1].
Share: TypeAlias = Annotated[float, Interval(ge=0.0, le=1.0)]
Positive: TypeAlias = Annotated[float, Gt(0.0)]
NotNegative: TypeAlias = Annotated[float, Ge(0.0)]
Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Mark:
    """A property of a field, stated in its annotation."""

    says: str


#: Marks a field that the program sets, not the user.
NOT_AN_OPTION = Mark("not an option")
#: Marks a field that affects how something is monitored, fed or computed, but not the result beyond rounding.
SAME_RESULT = Mark("same result")


@dataclasses.dataclass(frozen=True, eq=False)
class MoreOf:
    """On a field with a ``Literal`` that can be extended: the registry of the additional values."""

    registry: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """On a field whose values are names of a registry: a list for the end of the help, computed when it is shown."""

    text: Callable[[], str]


def listed(hint: Any) -> str:
    """Return the text of the :class:`Listing` of an annotation; empty without one.

    >>> listed(Annotated[str, Listing(lambda: "flip, grey")])
    'flip, grey'
    """
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((extra.text() for extra in extras if isinstance(extra, Listing)), "")


def opened(hint: Any) -> Any:
    """Return an annotation with the registered values (:class:`MoreOf`) added to its ``Literal``.

    >>> opened(Annotated[Literal["a", "b"], MoreOf({"b": 0, "mine": 1})])
    typing.Literal['a', 'b', 'mine']
    """
    if get_origin(hint) is not Annotated:
        return hint
    inner, *extras = get_args(hint)
    more = [name for extra in extras if isinstance(extra, MoreOf) for name in extra.registry]
    return Literal[tuple(dict.fromkeys((*get_args(inner), *more)))] if more else hint


def check_fields(config: Any, prefix: str = "") -> None:
    """Check the fields of a frozen dataclass: values of ``Literal`` types, and numbers with annotated ranges.

    None passes if the annotation allows it. Other types are not checked.

    Args:
        config: the dataclass.
        prefix: prefix of field names in messages, such as ``train.``.

    Raises:
        UsageError: for the first invalid field; the message says what is valid.

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
    for name, hint in field_hints(type(config)).items():
        check_value(f"{prefix}{name}", getattr(config, name), hint)


@functools.cache
def field_hints(kind: type) -> dict[str, Any]:
    """Return the annotation of each field of a dataclass, with its ranges and marks."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def own_options(kind: type) -> dict[str, Any]:
    """Return the options of a section with their annotations: those it defines itself, or the fields of a dataclass."""
    return kind.option_hints() if hasattr(kind, "option_hints") else field_hints(kind)  # pyright: ignore


def is_known(value: Any) -> bool:
    """Return whether a number is known while a program is traced, as opposed to an input of the compiled program.

    >>> is_known(0.1), is_known(None)
    (True, False)
    """
    return isinstance(value, (int, float))


def is_on(value: Any) -> bool:
    """Return whether a number has an effect: it is not 0, or only known when the compiled program runs (a tracer).

    >>> is_on(0.0), is_on(0.1), is_on(None)
    (False, True, False)
    """
    return value is not None and (not is_known(value) or value != 0)


def unchecked(config: Config, **values: Any) -> Config:
    """Return a copy of a frozen dataclass with other values that are not checked, such as tracers.

    Code that reads such a field must use :func:`is_on` or :func:`is_known` before branching on its value.

    Args:
        config: a dataclass.
        **values: values of its fields.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     size: AtLeast1 = 1
    ...     def __post_init__(self):
    ...         check_fields(self)
    >>> unchecked(Config(), size=0)
    Config(size=0)
    """
    names = {field.name for field in dataclasses.fields(config)}  # pyright: ignore[reportArgumentType]
    if not set(values) <= names:
        raise TypeError(f"{type(config).__name__} has no field {', '.join(sorted(set(values) - names))}")
    copy = object.__new__(type(config))
    for name, value in {**vars(config), **values}.items():
        object.__setattr__(copy, name, value)
    return copy


def is_section(hint: Any) -> bool:
    """Return whether an annotation is a section of options, as opposed to the value of one option.

    A section has ``option_hints()``, or is a dataclass that pydantic reads field by field.
    """
    if not isinstance(hint, type):
        return False
    whole = hasattr(hint, "__get_pydantic_core_schema__")
    return hasattr(hint, "option_hints") or (dataclasses.is_dataclass(hint) and not whole)


def options_of(kind: type) -> dict[str, Any]:
    """Return all options below a section, by dotted name, with their annotations."""
    rows: dict[str, Any] = {}
    for name, hint in own_options(kind).items():
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        below = {f"{name}.{key}": child for key, child in options_of(inner).items()} if is_section(inner) else None
        rows |= {name: hint} if below is None else below
    return rows


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """Return the first paragraph of the text under each field of a dataclass, in one line; empty without its source."""
    inherited = (field_docs(base) for base in reversed(kind.__bases__) if dataclasses.is_dataclass(base))
    docs = {name: text for one in inherited for name, text in one.items()}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return docs
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            paragraph = inspect.cleandoc(ast.literal_eval(text.value)).split("\n\n")[0]
            docs[field.target.id] = " ".join(paragraph.split())
    return docs


def is_marked(hint: Any, mark: Mark) -> bool:
    """Return whether an annotation, or a member of its union, carries a mark."""
    if get_origin(hint) is Annotated:
        return any(extra is mark for extra in get_args(hint)[1:])
    return get_origin(hint) in (Union, types.UnionType) and any(is_marked(arm, mark) for arm in get_args(hint))


def range_of(hint: Any) -> str:
    """Return the range of an annotation in words; empty if it has none.

    >>> range_of(AtLeast1 | None), range_of(tuple[Share, ...]), range_of(int)
    ('1 or more', 'in [0, 1]', '')
    """
    if get_origin(hint) is Annotated:
        said = [_say(*_bounds(extra)) for extra in get_args(hint)[1:] if isinstance(extra, _RANGES)]
        return " and ".join(said)
    return next((said for part in get_args(hint) if (said := range_of(part))), "")


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Return the values of a ``Literal``, including None if allowed; empty for other annotations.

    >>> choices_of(Literal["a", "b"] | None), choices_of(int | None)
    (('a', 'b', None), ())
    """
    hint = opened(hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return choices_of(parts[0])
    if origin in (Union, types.UnionType):
        arms = [() if part is type(None) else choices_of(part) for part in parts]
        if any(not arm and part is not type(None) for arm, part in zip(arms, parts, strict=True)):
            return ()
        return (*(value for arm in arms for value in arm), *((None,) if type(None) in parts else ()))
    return parts if origin is Literal else ()


def check_value(name: str, value: Any, hint: Any) -> None:
    """Check a value against the annotation of its field, as :func:`check_fields` does.

    Raises:
        UsageError: if it is invalid.
    """
    hint = opened(hint)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        arms = get_args(hint)
        if value is None and type(None) in arms:
            return
        arms = [arm for arm in arms if arm is not type(None)]
        if len(arms) == 1:
            check_value(name, value, arms[0])
    elif origin is Literal:
        known = get_args(hint)
        if value not in known:
            if all(isinstance(choice, int) for choice in known):
                raise UsageError(f"{name} must be {either([str(choice) for choice in known])}, got {value!r}")
            raise unknown(name, value, [str(choice) for choice in known])
    elif origin is Annotated:
        inner, *extras = get_args(hint)
        check_value(name, value, inner)
        for extra in extras:
            if isinstance(extra, _RANGES):
                _check_range(name, value, extra)
    elif origin is tuple and isinstance(value, tuple):
        for item in value:
            check_value(name, item, get_args(hint)[0])


#: The annotations that define ranges.
_RANGES = (Ge, Gt, Le, Lt, Interval)


def _bounds(limits: Any) -> tuple[Any, Any, Any, Any]:
    ge, gt, le, lt = (getattr(limits, bound, None) for bound in ("ge", "gt", "le", "lt"))
    return ge, gt, le, lt


def _check_range(name: str, value: Any, limits: Any) -> None:
    ge, gt, le, lt = _bounds(limits)
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
