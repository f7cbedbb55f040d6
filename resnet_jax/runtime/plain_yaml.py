"""YAML restricted to plain values: of bounded size, depth and number, and without references to itself.

PyYAML's safe loader runs no code, but a text of a kilobyte whose aliases refer to lists of aliases stands for billions
of values as soon as anything walks through them; a deep one ends in ``RecursionError``, and an invalid date in
``ValueError``. Here all of these are ``yaml.YAMLError``.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_CHARACTERS = 1 << 19
MAX_DEPTH = 64
MAX_VALUES = 100_000
"""Number of values that a text stands for, each counted as often as it is referred to."""


MAX_DIGITS = 100
"""Maximum length of an integer: Python would take hours for one with a million digits, in base 60."""


class _Loader(yaml.SafeLoader):
    """The safe loader with a limit on its recursion depth."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"values lie more than {MAX_DEPTH} deep in each other")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_yaml_int(self, node: Any) -> int:
        if len(str(node.value)) > MAX_DIGITS:
            raise yaml.YAMLError(f"an integer has {len(node.value):,} digits; at most {MAX_DIGITS} are read")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load_yaml(text: str) -> Any:
    r"""Return the plain values of a YAML document.

    Raises:
        yaml.YAMLError: if it is invalid, or has too many, too deep or endless values.

    >>> load_yaml("a: &x [1, 2]\nb: *x")
    {'a': [1, 2], 'b': [1, 2]}
    >>> load_yaml("&x [*x]")
    Traceback (most recent call last):
    yaml.error.YAMLError: a value refers to itself
    """
    return _loaded(text)[0]


def load_yaml_and_keys(text: str) -> tuple[Any, list[str]]:
    """Return the values of a document, and the keys of its mapping as they are written.

    In YAML, ``on`` is a boolean and ``010`` is 8.
    """
    return _loaded(text)


def _loaded(text: str) -> tuple[Any, list[str]]:
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    loader: Any = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, []
        if (count := _values(node)) > MAX_VALUES:
            said = f"{count:,}" if count < 10**12 else "more than 10^12"
            raise yaml.YAMLError(f"with its aliases it stands for {said} values; at most {MAX_VALUES:,} are read")
        keys = [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        return loader.construct_document(node), keys
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise yaml.YAMLError(f"a value is not what its form says: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _values(root: Any) -> int:
    """Return how many values a node stands for, each counted as often as it is referred to."""
    counts: dict[int, int] = {}
    open_nodes: set[int] = set()
    todo: list[tuple[Any, bool]] = [(root, False)]
    while todo:
        node, is_done = todo.pop()
        inner = _inner(node)
        if is_done:
            open_nodes.discard(id(node))
            counts[id(node)] = 1 + sum(counts[id(one)] for one in inner)
        elif id(node) in open_nodes:
            raise yaml.YAMLError("a value refers to itself")
        elif id(node) not in counts:
            open_nodes.add(id(node))
            todo.append((node, True))
            todo += [(one, False) for one in inner]
    return counts[id(root)]


def _inner(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
