"""Deprecated names and arguments: they still work, and warn with their replacement and when they will be removed.

Options of recipes and of the command line are not covered here: ``runs/legacy.py`` reads their old spellings
indefinitely, since run directories contain them.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

#: Modules between a deprecated name and the line that uses it, with all their submodules.
_BETWEEN = ("resnet_jax", "lazy_loader", "importlib", "_frozen_importlib")


@dataclasses.dataclass(frozen=True)
class Renamed:
    """The replacement of a name.

    Attributes:
        new: the new name, in the same module.
        since: the version that renamed it.
        until: the first version without the old name.
    """

    new: str
    since: str
    until: str


def warn(old: str, renamed: Renamed) -> None:
    """Warn that a name is deprecated, at the caller's line outside this package.

    Args:
        old: the name as typed.
        renamed: its replacement.
    """
    said = f"{old} is deprecated since resnet_jax {renamed.since} and leaves in {renamed.until}: use {renamed.new}"
    warnings.warn(said, DeprecationWarning, stacklevel=_depth_of_user())


def with_old_names(module: str, names: Mapping[str, Renamed], otherwise: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that supports old names, and warns when one is used.

    Args:
        module: its ``__name__``.
        names: old name -> its replacement.
        otherwise: the ``__getattr__`` for all other names.

    >>> get = with_old_names("depth", {"Old": Renamed("New", "0.1", "0.3")}, {"New": 1}.__getitem__)
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     get("Old"), str(said[0].message)
    (1, 'depth.Old is deprecated since resnet_jax 0.1 and leaves in 0.3: use depth.New')
    """

    def get(name: str) -> Any:
        if name not in names:
            return otherwise(name)
        row = names[name]
        warn(f"{module}.{name}", dataclasses.replace(row, new=f"{module}.{row.new}"))
        return getattr(sys.modules[module], row.new) if module in sys.modules else otherwise(row.new)

    return get


def renamed_argument(old: str, renamed: Renamed) -> Callable[[Function], Function]:
    """Return a decorator for a function that still accepts an argument by its old name.

    Args:
        old: the former keyword.
        renamed: the current keyword.

    Raises:
        TypeError: from the decorated function, if both are given.

    >>> @renamed_argument("rate", Renamed("learning_rate", "0.2", "0.4"))
    ... def train(learning_rate):
    ...     return learning_rate
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     train(rate=0.1), str(said[0].message)
    (0.1, 'train(rate=) is deprecated since resnet_jax 0.2 and leaves in 0.4: use learning_rate=')
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if old in kwargs:
                if renamed.new in kwargs:
                    raise TypeError(
                        f"{function.__name__}() got {renamed.new} and {old}, its old name: give {renamed.new}"
                    )
                warn(f"{function.__name__}({old}=)", dataclasses.replace(renamed, new=f"{renamed.new}="))
                kwargs[renamed.new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return called  # pyright: ignore[reportReturnType]

    return decorate


def _depth_of_user() -> int:
    """Return the ``stacklevel``, for :func:`warn`, of the nearest frame outside the package; 2 if there is none."""
    level, frame = 1, sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _BETWEEN:
            return level
        if "_bootstrap" not in frame.f_code.co_filename:  # frames of the import system are not counted
            level += 1
        frame = frame.f_back
    return 2
