"""Named things of one kind (networks, blocks, norms, sources, transforms, tasks, observers); users can add more."""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from resnet_jax.errors import UsageError, unknown

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Registry(UserDict[str, T], Generic[T]):
    """A mapping from names to things of one kind. A name is unique; looking up an unknown one suggests the nearest.

    Args:
        kind: the word for one of them in messages.
        reserved: names that cannot be registered because they are defined elsewhere.
        listing: what lists them all, such as a command.
        words: whether names must be Python identifiers, because other characters have a meaning where they are written.

    >>> norms: Registry[type] = Registry("norm")
    >>> norms["mine"] = int
    >>> norms["mine"], "other" in norms
    (<class 'int'>, False)
    >>> norms["mime"]
    Traceback (most recent call last):
    resnet_jax.errors.UsageError: unknown norm 'mime'; did you mean 'mine'? Known: mine
    """

    def __init__(
        self, kind: str, *, reserved: Iterable[str] = (), listing: str | None = None, words: bool = False
    ) -> None:
        super().__init__()
        self.kind, self.reserved, self.listing, self.words = kind, tuple(reserved), listing, words

    def __setitem__(self, name: str, thing: T) -> None:
        self._require_free(name)
        self.data[name] = thing

    def _require_free(self, name: str) -> None:
        if not isinstance(name, str) or not (_WORD if self.words else _NAME).fullmatch(name):
            rule = "letters, digits and underscores" if self.words else "a letter, then letters, digits and _ . + -"
            raise UsageError(f"{name!r} cannot name a {self.kind}: {rule}")
        if name in self.data or name in self.reserved:
            raise UsageError(f"there is a {self.kind} called {name!r} already")

    def get(self, name: str, default: Any = None) -> Any:
        """Return the thing with this name, or ``default``."""
        return self.data.get(name, default)

    def __missing__(self, name: str) -> T:
        raise unknown(self.kind, name, (*self.reserved, *self.data), self.listing)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a name, like dict.pop."""
        return self.data.pop(name, *default)

    def replace_same(self, name: str, thing: Any, known: Any) -> None:
        """Make room for a thing that is reloaded, as by ``importlib.reload``: the same name in the same module.

        Args:
            name: the name to be registered.
            thing: the function or class.
            known: the one that has the name; None if there is none.
        """
        if known is not None and _origin(known) == _origin(thing):
            del self.data[name]

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under ``name`` and returns it unchanged.

        Raises:
            UsageError: if the name is taken, or invalid.
        """
        self._require_free(name)

        def add(thing: T) -> T:
            self[name] = thing
            return thing

        return add


def _origin(thing: Any) -> tuple[str, str]:
    return getattr(thing, "__module__", ""), getattr(thing, "__qualname__", repr(thing))
