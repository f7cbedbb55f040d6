"""Errors a user can act on: what was wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class ResNetJaxError(Exception):
    """A failure with a message for the user; the command line prints it without a traceback.

    Attributes:
        exit_code: process exit status of the command line (1 for failures, 2 for usage).
    """

    exit_code = 1


class CheckError(ResNetJaxError):
    """A check did not pass.

    Attributes:
        result: the verdict, as the command line prints it with ``--json``.
    """

    def __init__(self, message: str, result: Any):
        super().__init__(message)
        self.result = result


class PartialError(CheckError):
    """Part of a request failed, and is named; the result contains the rest."""


class UsageError(ResNetJaxError, ValueError):
    """The request itself is wrong: an unknown name, a value out of range, incompatible choices."""

    exit_code = 2


class DataError(ResNetJaxError):
    """The data set is missing, empty, unreadable or inconsistent."""


class RunError(ResNetJaxError):
    """A run cannot start or continue: diverged, not writable, or a directory of another configuration."""


class DamagedError(RunError):
    """A file or checkpoint differs from what was written."""


#: Maximum number of names listed in a message; of more, the nearest three are named.
FEW = 14


def nearest(given: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to ``given``, or None if nothing is close.

    >>> nearest("resnet05", ["resnet50", "wide"])
    'resnet50'
    """
    near = closest(given, known, 1)
    return near[0] if near and _likeness(given, near[0]) >= 0.5 else None


def closest(given: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the names most similar to ``given``, best first: typing errors, prefixes, last parts, initials.

    >>> closest("lr", ["model.name", "train.epochs", "optim.learning-rate", "model.norm"], 1)
    ['optim.learning-rate']
    >>> closest("epochs", ["model.name", "train.epochs"], 1), closest("ResNet50v2", ["resnet50", "resnet50_v2"], 1)
    (['train.epochs'], ['resnet50_v2'])
    """
    return sorted(known, key=lambda name: -_likeness(given, name))[:count]


def _likeness(given: str, name: str) -> float:
    """Return the similarity of two names, from 0 to slightly above 1; case and the kind of dash do not matter."""
    typed, whole = (text.lower().strip("-").replace("_", "-") for text in (given, name))
    last = whole.split(".")[-1]
    texts = (whole, last, whole[: len(typed) + 1])
    ratios = [difflib.SequenceMatcher(None, typed, text).ratio() for text in texts]
    begins = 0.25 if typed and whole.startswith(typed) else 0.0
    words = last.split("-")
    initials = 0.9 if len(words) > 1 and typed == "".join(word[:1] for word in words) else 0.0
    return max(ratios[0] + begins, ratios[1] - 0.05, ratios[2] - 0.05, initials)


def either(names: Sequence[str]) -> str:
    """Return names as a list of alternatives.

    >>> either(["a", "b", "c"]), either(["a"])
    ('a, b or c', 'a')
    """
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def unknown(kind: str, given: object, known: Iterable[str], listing: str | None = None) -> UsageError:
    """Build the error for a name that is not in a table.

    Args:
        kind: the kind of name.
        given: the requested name.
        known: the existing names. Up to :data:`FEW` names are listed; of more, the nearest three are named.
        listing: what lists them all, such as a command.

    >>> str(unknown("loss", "mze", ["bce", "mse"]))
    "unknown loss 'mze'; did you mean 'mse'? Known: bce, mse"
    >>> str(unknown("model", "net1", [f"net{n}" for n in range(10, 99)], "`models`"))
    "unknown model 'net1'; did you mean 'net10', 'net11' or 'net12'? `models` lists all 89"
    """
    names = list(known)
    if len(names) > FEW:
        near = either([repr(name) for name in closest(str(given), names)])
        rest = f" {listing} lists all {len(names)}" if listing else ""
        return UsageError(f"unknown {kind} {given!r}; did you mean {near}?{rest}")
    close = nearest(str(given), names)
    hint = f"; did you mean {close!r}?" if close else "."
    return UsageError(f"unknown {kind} {given!r}{hint} Known: {', '.join(names)}")
