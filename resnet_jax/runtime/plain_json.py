"""JSON whose errors are all ``ValueError``, including values nested too deeply for Python's parser."""

from __future__ import annotations

import json
from typing import Any


def load_json(text: str | bytes) -> Any:
    """Return the values of a JSON text.

    A text of n bytes makes Python objects of up to about 25 n bytes; the caller limits the bytes.

    Raises:
        ValueError: if it is invalid, or nested too deeply.

    >>> load_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: values lie too deep in each other
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("values lie too deep in each other") from None
