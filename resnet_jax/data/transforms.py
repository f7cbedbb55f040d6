"""Transforms by name: an augmentation is an ordered list of them, written as text: ``random_crop(pad=4)``, ``flip``.

A transform is a frozen dataclass whose ``apply`` works on one example on the host, in NumPy, or on a batch on the
device, in JAX, as given by its ``where``. Host transforms come first, and normalization is inserted automatically:
before the first transform that works on normalized images, or at the end. Use :func:`register_transform` to add your
own.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

from resnet_jax.data.example import Spec
from resnet_jax.data.transform import HostTransform
from resnet_jax.errors import UsageError, unknown
from resnet_jax.fields import check_fields
from resnet_jax.runtime.registry import Registry

Needs = Literal["pixels", "normalized", "any"]


class DeviceTransform(Protocol):
    """A transform of a batch inside the compiled step. Frozen and hashable.

    Attributes:
        where: ``device``.
        needs: inputs as stored (``pixels``), normalized ones, or either.
        stream: folded into the key of the run, so that its random draws are independent.
        mixes: whether labels become rows of shares (mixup); classes are then given one-hot.
    """

    where: ClassVar[Literal["host", "device"]]
    needs: ClassVar[Needs]
    stream: ClassVar[int | None]
    mixes: ClassVar[bool]

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Return the transformed batch.

        Args:
            batch: arrays (b, ...), including ``image``.
            keys: one JAX key per example, (b,), from seed, epoch and index: draw from it under ``jax.vmap``.
            spec: the meaning of the fields; masks and boxes must move with the image.
        """
        ...


Transform: TypeAlias = "HostTransform | DeviceTransform"
Kind = TypeVar("Kind", bound=type)

TRANSFORMS: Registry[type] = Registry("transform", words=True)
_OURS = "resnet_jax.data.augmentations"


def register_transform(name: str) -> Callable[[Kind], Kind]:
    """Register a transform under a name for ``data.augment``.

    Args:
        name: letters, digits and underscores.

    Raises:
        UsageError: if another class has the name, or the class is not a transform.
    """

    def register(kind: Kind) -> Kind:
        described: Any = kind
        if not dataclasses.is_dataclass(described) or not hasattr(kind, "apply"):
            raise UsageError(f"transform {name!r}: need a frozen dataclass with a method apply, got {kind.__name__}")
        if getattr(kind, "where", None) not in ("host", "device"):
            raise UsageError(f"transform {name!r}: its class attribute where must be 'host' or 'device'")
        TRANSFORMS.replace_same(name, kind, _table().get(name))
        TRANSFORMS[name] = kind
        return kind

    return register


def _table() -> Registry[type]:
    importlib.import_module(_OURS)
    return TRANSFORMS


def list_transforms() -> list[str]:
    """Return the syntax of every transform.

    >>> "cutout(side)" in list_transforms(), "random_resized_crop" in list_transforms()
    (True, True)
    """
    return [_form(name) for name in sorted(_table())]


def transform_names() -> str:
    """Return the names of all transforms with their required arguments, in a list.

    >>> "random_crop(pad), random_erasing, random_resized_crop" in transform_names()
    True
    """
    return ", ".join(_needed(name) for name in sorted(_table()))


def _needed(name: str) -> str:
    needed = [field.name for field in _arguments(_table()[name]) if _required(field)]
    return f"{name}({', '.join(needed)})" if needed else name


def parse_transform(text: str) -> Transform:
    """Return the transform for a text: its name, and in parentheses arguments such as numbers and strings.

    Raises:
        UsageError: for an unknown transform or argument, or an invalid value; the message says what is possible.

    >>> parse_transform("random_crop(pad=4)")
    RandomCrop(where='device', pad=4, border='zeros')
    >>> parse_transform("flip()") == parse_transform("flip")
    True
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise UsageError(f"cannot read the transform {text!r}; write it as {_EXAMPLES}") from None
    call = tree if isinstance(tree, ast.Call) else None
    head = tree if call is None else call.func
    if not isinstance(head, ast.Name):
        raise UsageError(f"cannot read the transform {text!r}; write it as {_EXAMPLES}")
    kind = _table()[head.id]
    fields = [field.name for field in _arguments(kind)]
    placed = [field.name for field in _arguments(kind) if not field.kw_only]
    given: dict[str, Any] = {}
    for place, value in enumerate([] if call is None else call.args):
        if place >= len(placed):
            raise UsageError(f"transform {text!r} has {len(call.args)} arguments; it is {_form(head.id)}")  # type: ignore[union-attr]
        given[fields[place]] = _literal(value, text)
    for keyword in [] if call is None else call.keywords:
        if keyword.arg not in fields:
            if not fields:
                raise UsageError(f"transform {head.id} has no arguments, got {text!r}")
            raise unknown(f"argument of transform {head.id}", str(keyword.arg), fields)
        if keyword.arg in given:
            raise UsageError(f"transform {text!r} gives {keyword.arg} twice")
        given[keyword.arg] = _literal(keyword.value, text)
    missing = [field.name for field in _arguments(kind) if _required(field) and field.name not in given]
    if missing:
        raise UsageError(f"transform {text!r} needs {', '.join(missing)}; it is {_form(head.id)}")
    return _made(kind, head.id, given)


_EXAMPLES = "'flip', 'random_crop(pad=4)' or 'mixup(0.2)'"


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise UsageError(
            f"transform {text!r}: {ast.unparse(node)} is no number, text, True, False, None or tuple of these"
        ) from None


_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text in quotes"}


def _made(kind: type, name: str, given: Mapping[str, Any]) -> Transform:
    """Build a transform; numbers are converted to the type of the field."""
    values, hints = dict(given), typing.get_type_hints(kind)
    for field, value in given.items():
        hint, values[field] = _without_none(hints[field], value), value
        if hint is None:
            continue
        if hint is float and type(value) is int:
            values[field] = float(value)
        elif hint in _KINDS and type(value) is not hint:
            raise UsageError(f"{name}: {field} must be {_KINDS[hint]}, got {value!r}")
    try:
        made = kind(**values)
        check_fields(made, f"{name}: ")
    except UsageError:
        raise
    except (TypeError, ValueError) as error:  # raised by somebody's __post_init__
        raise UsageError(f"{name}: {error}") from error
    return made


def _without_none(hint: Any, value: Any) -> Any:
    """Return the required type of a value; None where it may be missing, and is."""
    arms = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if value is None and type(None) in arms:
        return None
    arms = [arm for arm in arms if arm is not type(None)]
    return arms[0] if len(arms) == 1 else typing.Any


def _arguments(kind: type) -> list[dataclasses.Field]:
    """Return the arguments of a transform as written: positional ones, then keyword-only ones."""
    return sorted(dataclasses.fields(kind), key=lambda field: field.kw_only is True)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _form(name: str, without: str = "") -> str:
    fields = [field for field in _arguments(_table()[name]) if field.name != without]
    listed = [field.name if _required(field) else f"{field.name}={field.default!r}" for field in fields]
    return f"{name}({', '.join(listed)})" if listed else name


def transform_name(transform: Any) -> str:
    """Return the name that a transform is registered by.

    >>> transform_name(parse_transform("mixup(0.2)"))
    'mixup'
    """
    kind = type(transform)
    name = next((name for name, known in _table().items() if known is kind), None)
    if name is None:
        raise UsageError(f"{kind.__name__} is not registered: @register_transform('name') gives it a name")
    return name


def write_transform(transform: Any) -> str:
    """Return the text that :func:`parse_transform` parses as this transform.

    >>> write_transform(parse_transform("mixup(alpha=1, probability=0.5)"))
    'mixup(1.0, probability=0.5)'
    """
    kind, name = type(transform), transform_name(transform)
    words = []
    for field in _arguments(kind):
        value = getattr(transform, field.name)
        if _required(field):
            words.append(repr(value))
        elif value != field.default:
            words.append(f"{field.name}={value!r}")
    return f"{name}({', '.join(words)})" if words else name


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A list of transforms, divided by where they run.

    Attributes:
        before: on the host, on the stored example.
        random_resized: whether a random part is resized to the network's size, between the two.
        after: on the host, on the resized example.
        device: on the device, in order.
    """

    before: tuple[HostTransform, ...] = ()
    random_resized: bool = False
    after: tuple[HostTransform, ...] = ()
    device: tuple[DeviceTransform, ...] = ()


def divide(texts: Iterable[str], *, name: str = "data.augment") -> Augmentation:
    """Return the transforms of a list, by where they run.

    Raises:
        UsageError: for one that cannot be parsed, or an impossible order.

    >>> divide(["random_resized_crop", "flip"]).random_resized
    True
    >>> divide(["flip", "random_resized_crop"])
    Traceback (most recent call last):
    resnet_jax.errors.UsageError: data.augment: random_resized_crop is done on the host and cannot come after flip, \
which is done on the device: put it before
    """
    from resnet_jax.data.augmentations import RandomResizedCrop

    before: list[Any] = []
    after: list[Any] = []
    device: list[Any] = []
    resized, normalized = False, ""
    for text in texts:
        transform: Any = parse_transform(text)
        written = write_transform(transform)
        if transform.where == "host":
            if device:
                raise UsageError(
                    f"{name}: {written} is done on the host and cannot come after {write_transform(device[-1])}, which "
                    "is done on the device: put it before"
                )
            if isinstance(transform, RandomResizedCrop):
                if resized:
                    raise UsageError(f"{name}: {written} is given twice")
                resized = True
            else:
                (after if resized else before).append(transform)
            continue
        needs = getattr(transform, "needs", "any")
        if needs == "pixels" and normalized:
            raise UsageError(
                f"{name}: {written} works on images as they are stored and cannot come after {normalized}, which works "
                "on normalized ones: put it before"
            )
        normalized = normalized or (written if needs == "normalized" else "")
        device.append(transform)
    return Augmentation(tuple(before), resized, tuple(after), tuple(device))


def canonical(texts: Iterable[str], *, name: str = "data.augment") -> tuple[str, ...]:
    """Return the list in normalized form: every transform in its one spelling.

    Raises:
        UsageError: as for :func:`divide`.

    >>> canonical(["random_crop( pad = 4 )", "flip()"])
    ('random_crop(4)', 'flip')
    """
    texts = tuple(texts)
    divide(texts, name=name)
    return tuple(write_transform(parse_transform(text)) for text in texts)


def doc_of(name: str) -> str:
    """Return the first line of a transform's docstring."""
    return (inspect.getdoc(_table()[name]) or "").split("\n")[0]


def transform_table(package: str = "resnet_jax.") -> str:
    """Return the transforms of a package as a Markdown table: syntax, where they run, what they do.

    Args:
        package: prefix of the names of their modules.
    """
    rows = ["| transform | runs on | what it does |", "|---|---|---|"]
    for name, kind in sorted(_table().items()):
        if not kind.__module__.startswith(package):
            continue
        free = "where" in {field.name for field in dataclasses.fields(kind)} and kind.needs != "normalized"  # pyright: ignore
        free = free and not getattr(kind, "resizes", False)
        place = "device or host" if free else kind.where  # pyright: ignore[reportAttributeAccessIssue]
        rows.append(f"| `{_form(name, without='where')}` | {place} | {doc_of(name)} |")
    return "\n".join(rows)
