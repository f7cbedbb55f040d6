"""Errors a person can act on: what was wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ResNetJaxError(Exception):
    """A failure with a message for the user; the command line prints it without a traceback.

    Attributes:
        exit_code: process exit status of the command line (1 for failures, 2 for usage).
    """

    exit_code = 1


class CheckError(ResNetJaxError):
    """What was checked did not pass.

    Attributes:
        result: the verdict, as the command line prints it with ``--json``.
    """

    def __init__(self, message: str, result: Any):
        super().__init__(message)
        self.result = result


class PartialError(CheckError):
    """A part of what was asked for failed, and is named; the result holds the rest."""


class UsageError(ResNetJaxError, ValueError):
    """The request itself is wrong: an unknown name, a value out of range, choices that do not go together."""

    exit_code = 2


class DataError(ResNetJaxError):
    """The data set is missing, empty, unreadable or inconsistent."""


class RunError(ResNetJaxError):
    """A run cannot start or go on: diverged, not writable, or a directory of another configuration."""


def nearest(given: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to ``given``, or None if nothing is close.

    >>> nearest("resnet05", ["resnet50", "wide"])
    'resnet50'
    """
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return close[0] if close else None


def unknown(kind: str, given: object, known: Iterable[str]) -> UsageError:
    """Build the error for a name that is not in a table: it names the nearest one and lists the rest.

    >>> str(unknown("loss", "mze", ["bce", "mse"]))
    "unknown loss 'mze'; did you mean 'mse'? Known: bce, mse"
    """
    names = list(known)
    close = nearest(str(given), names)
    hint = f"; did you mean {close!r}?" if close else "."
    return UsageError(f"unknown {kind} {given!r}{hint} Known: {', '.join(names)}")
