"""Progressive resizing: the sides of training images in the course of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable

from resnet_jax.errors import UsageError

_PATTERN = re.compile(r"\s*(\d+)\s*@\s*(.+?)\s*")
_EXAMPLE = '"128@0%" "160@40%" "224@80%"'


def parse_sizes(texts: Iterable[str]) -> tuple[tuple[int, str], ...]:
    """Return the side of each stage in pixels, and when it begins, as written.

    Raises:
        UsageError: for a text that is not a side and a duration, or a side of 0.

    >>> parse_sizes(["128@0%", "224 @ 30 epochs"])
    ((128, '0%'), (224, '30 epochs'))
    """
    found = []
    for text in texts:
        match = _PATTERN.fullmatch(text)
        if match is None or int(match[1]) < 1:
            raise UsageError(f"data.sizes: cannot read {text!r}; write side@when, such as {_EXAMPLE}")
        found.append((int(match[1]), match[2]))
    return tuple(found)
