"""A quick check of whether a default fits its annotation, so that tyro does not load typeguard, asyncio and
unittest.mock.

Loading those takes a quarter of the time of a ``--help``. Cases that are not handled here are decided by tyro as
before.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any


def fits(hint: Any, value: Any, otherwise: Callable[[Any, Any], bool]) -> bool:
    """Return whether a value is of an annotated type.

    Args:
        hint: the annotation.
        value: the value.
        otherwise: decides all annotations other than unions, tuples, ``Any`` and None.

    >>> def never(hint, value): raise AssertionError(hint)
    >>> fits(tuple[str, ...] | None, None, never), fits(tuple[None, ...], (None, 1), never)
    (True, False)
    """
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType | typing.Union:
            return any(fits(each, value, otherwise) for each in arguments)
        case typing.Annotated:
            return fits(arguments[0], value, otherwise)
        case kind if kind is tuple:
            if not isinstance(value, tuple):
                return False
            if arguments[1:] == (...,):
                return all(fits(arguments[0], each, otherwise) for each in value)
            pairs = zip(arguments, value, strict=False)
            return len(arguments) == len(value) and all(fits(each, item, otherwise) for each, item in pairs)
    if hint is Any:
        return True
    return value is None if hint in (None, types.NoneType) else otherwise(hint, value)


def let_tyro_decide_quickly() -> bool:
    """Make tyro use :func:`fits`.

    Returns:
        Does nothing if this version of tyro does not support it; tyro is then as slow as before.
    """
    try:
        from tyro import _resolver

        theirs: Any = _resolver.is_instance
    except (ImportError, AttributeError):
        return False
    if getattr(theirs, "is_ours", False):
        return True

    def is_instance(typ: Any, value: Any) -> bool:
        return fits(typ, value, theirs)

    is_instance.is_ours = True  # pyright: ignore[reportFunctionMemberAccess]
    _resolver.is_instance = is_instance
    return True
