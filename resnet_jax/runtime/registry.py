"""Named things of one kind (networks, blocks, norms, sources, transforms, tasks, observers); anybody adds their own."""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from resnet_jax.errors import UsageError, unknown

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]*")


class Registry(UserDict[str, T], Generic[T]):
    """A mapping from names to things of one kind. A name is given once; looking up another names the nearest.

    Args:
        kind: what messages call one of them.
        reserved: names that cannot be registered, being decided elsewhere.
        listing: what lists them all, such as a command.

    >>> norms: Registry[type] = Registry("norm")
    >>> norms["mine"] = int
    >>> norms["mine"], "other" in norms
    (<class 'int'>, False)
    >>> norms["mime"]
    Traceback (most recent call last):
    resnet_jax.errors.UsageError: unknown norm 'mime'; did you mean 'mine'? Known: mine
    """

    def __init__(self, kind: str, *, reserved: Iterable[str] = (), listing: str | None = None):
        super().__init__()
        self.kind, self.reserved, self.listing = kind, tuple(reserved), listing

    def __setitem__(self, name: str, thing: T) -> None:
        self._require_free(name)
        self.data[name] = thing

    def _require_free(self, name: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a {self.kind}: a letter, then letters, digits and _ . + -")
        if name in self.data or name in self.reserved:
            raise UsageError(f"there is a {self.kind} called {name!r} already")

    def __missing__(self, name: str) -> T:
        raise unknown(self.kind, name, (*self.reserved, *self.data), self.listing)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the thing called ``key``, or the default: a name that is not here is no error."""
        return self.data.get(key, default)

    def pop(self, name: str, *default: Any) -> Any:
        """Take a name out, as of a dict."""
        return self.data.pop(name, *default)

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds what it decorates under ``name`` and gives it back unchanged.

        Raises:
            UsageError: the name is taken, or cannot be one.
        """
        self._require_free(name)

        def add(thing: T) -> T:
            self[name] = thing
            return thing

        return add
