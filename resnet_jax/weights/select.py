"""Find the state dict in a checkpoint: training scripts wrap it in many ways and store other things next to it.

A **path** consists of the keys from the top, joined by dots. Only string keys and list positions are followed. An
optimizer keeps its tensors under numbers, and is recognized by its two keys and skipped in any case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import DataError, UsageError
from resnet_jax.runtime.plain_pickle import Global, Inert
from resnet_jax.weights.sniff import SAVE

#: Keys that identify an optimizer's state, whatever its name.
OPTIMIZER = {"state", "param_groups"}
#: Limits that no real checkpoint reaches, so that a file cannot create paths longer than itself.
_DEPTH, _KEY_LENGTH = 32, 200
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Found:
    """A mapping of names to tensors in a checkpoint.

    Attributes:
        path: its path, empty at the top.
        entries: its contents, not all of which need to be tensors.
    """

    path: str
    entries: Mapping[Any, Any]

    @property
    def tensors(self) -> int:
        """Number of entries that are tensors."""
        return sum(isinstance(value, np.ndarray) for value in self.entries.values())

    def __str__(self) -> str:
        """Path and size."""
        return f"{self.path or '(the top)'} ({self.tensors} tensors)"


def choose(content: Any, key: str | None, source: object) -> tuple[Found, str]:
    """Return the state dict of a checkpoint, and a prefix of its names if ``key`` continues into them.

    Args:
        content: the content of the file.
        key: path of the mapping to take, optionally followed by a prefix of the names in it, such as
            ``state_dict.backbone``. None takes the only one there is.
        source: the file, for messages.

    Raises:
        DataError: there is no mapping of names to tensors; the message says what there is instead.
        UsageError: there are several and ``key`` is None, or ``key`` leads to none; the message lists them.
    """
    found = find(content)
    if key is not None:
        return _by_key(content, found, key, source)
    if not found:
        raise DataError(f"{source}: {_what_instead(content)}")
    if len(found) > 1:
        raise UsageError(
            f"{source} holds {len(found)} mappings of names to tensors: {_listed(found)}; choose one by its key, "
            f"such as key={found[0].path}"
        )
    return found[0], ""


def find(content: Any) -> list[Found]:
    """Return the mappings that can be state dicts: mostly tensors, some with two axes, and no such mapping inside.

    >>> [found.path for found in find({"epoch": 3, "net": {"fc.weight": np.ones((2, 2))}, "best": np.ones(())})]
    ['net']
    """
    every = [Found(path, value) for path, value in _walk(content) if isinstance(value, Mapping)]
    found = [one for one in every if 2 * one.tensors >= len(one.entries) and one.tensors and _has_text_keys(one)]
    outer = {above for one in found for above in _paths_above(one.path)}
    inner = [one for one in found if one.path not in outer]
    with_kernels = [one for one in inner if any(_is_kernel(value) for value in one.entries.values())]
    return with_kernels or inner


def foreign_entries(found: Found) -> list[str]:
    """Describe the entries that are not tensors or have no name.

    >>> foreign_entries(Found("", {"w": np.ones(2), "lr": 0.1}))
    ["'lr' (float)"]
    """
    return [
        f"{_brief(name)} ({type_name(value)})"
        for name, value in found.entries.items()
        if not (isinstance(name, str) and isinstance(value, np.ndarray))
    ]


def type_name(value: Any) -> str:
    """Return the name for the type of ``value`` in a message."""
    if isinstance(value, Inert):
        return f"a pickled {value.name[:100]}"
    return f"the name {value.name[:100]}" if isinstance(value, Global) else type(value).__name__


def _by_key(content: Any, found: list[Found], key: str, source: object) -> tuple[Found, str]:
    """Return the mapping that ``key`` leads to: itself, the only one below it, or one whose names have it as a
    prefix.
    """
    for path, value in _walk(content):
        if path == key and isinstance(value, Mapping) and not any(key in _paths_above(one.path) for one in found):
            exact = Found(path, value)
            if exact.tensors:
                return exact, ""
    below = [one for one in found if one.path.startswith(f"{key}.")]
    if len(below) == 1:
        return below[0], ""
    if below:
        raise UsageError(f"{source} holds {len(below)} mappings of names to tensors under {key!r}: {_listed(below)}")
    above = [one for one in found if not one.path or key.startswith(f"{one.path}.")]
    rests = [(one, key.removeprefix(f"{one.path}.") if one.path else key) for one in above]
    if len(found) == 1 and not rests:
        rests = [(found[0], key)]
    for one, rest in rests:
        if any(isinstance(name, str) and f".{rest}." in f".{name}" for name in one.entries):
            return one, rest
    places = _listed(found) if found else _what_instead(content)
    heads = sorted({name.partition(".")[0] for one in found for name in one.entries if isinstance(name, str)})
    begin = f"; names begin with {', '.join(heads[:_SHOWN])}" if len(found) == 1 else ""
    raise UsageError(f"{source} has no mapping of names to tensors under {key!r}; it holds {places}{begin}")


def _walk(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every container with its path, each only once even if the file refers to it repeatedly; not recursive."""
    todo: list[tuple[str, int, Any]] = [("", 0, content)]
    seen: set[int] = set()
    while todo:
        path, depth, value = todo.pop()
        if id(value) in seen or not _is_container(value):
            continue
        seen.add(id(value))
        yield path, value
        if isinstance(value, Mapping):
            followed = [(name, child) for name, child in value.items() if isinstance(name, str)]
            followed = [] if value.keys() >= OPTIMIZER else followed
        else:
            followed = [(str(place), child) for place, child in enumerate(value)]
        if depth < _DEPTH:
            start = f"{path}." if path else ""
            todo += [
                (f"{start}{name}", depth + 1, child)
                for name, child in reversed(followed)
                if _is_container(child) and len(name) <= _KEY_LENGTH
            ]


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _is_kernel(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim >= 2 and jnp.issubdtype(value.dtype, jnp.floating)


def _has_text_keys(found: Found) -> bool:
    return all(isinstance(name, str) for name, value in found.entries.items() if isinstance(value, np.ndarray))


def _paths_above(path: str) -> list[str]:
    """Return the paths above ``path``, including the top."""
    return ["", *(path[:end] for end, letter in enumerate(path) if letter == ".")] if path else []


def _listed(found: list[Found]) -> str:
    rest = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(map(str, found[:_SHOWN])) + rest


def _what_instead(content: Any) -> str:
    """Say why there is no state dict: a whole module was saved, or something else."""
    if isinstance(content, Inert):
        return f"a whole pickled object ({content.name[:100]}), whose code would have to run; save its tensors: {SAVE}"
    if not isinstance(content, Mapping):
        return f"no state dict in it, which maps names to tensors, but a {type_name(content)}"
    modules = [
        f"{_brief(name)} ({v.name[:100]})" for name, v in content.items() if isinstance(v, Inert) and v.is_module
    ]
    if modules:
        return (
            "no state dict in it, which maps names to tensors, but whole pickled modules: "
            f"{', '.join(modules[:_SHOWN])}; save their tensors: {SAVE}"
        )
    held = ", ".join(f"{_brief(name)} ({type_name(value)})" for name, value in list(content.items())[:_SHOWN])
    return f"no state dict in it, which maps names to tensors; it holds {held or 'nothing'}"


def _brief(name: Any) -> str:
    if isinstance(name, str):
        return ascii(name[:80])
    return str(name) if type(name) in (int, bool) and abs(name) < 2**64 else type_name(name)
