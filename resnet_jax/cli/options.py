"""Parsing shared by the verbs: tyro over a dataclass, its errors on one screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from rich.console import Console

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every verb."""

    json: bool = False
    """Print one JSON object as the last line of standard output; everything else goes to standard error."""
    debug: bool = False
    """Show the traceback of an error."""


def parse(kind: type[T], argv: Sequence[str], *, verb: str, about: str, default: T | None = None) -> T:
    """Parse ``argv`` into the dataclass ``kind``; exits with status 2 and a message if it does not fit."""
    import tyro

    options: Any = {} if default is None else {"default": default}
    return tyro.cli(kind, args=list(argv), prog=f"resnet-jax {verb}", description=about, **options)


def console_for(common: Common) -> Console:
    """Return where people read: standard output, or standard error when a program reads standard output."""
    return Console(stderr=common.json)


def typed_fields(argv: Sequence[str], of: str) -> frozenset[str]:
    """Return which fields of a part of the configuration were typed, whatever their values.

    >>> sorted(typed_fields(["--optim.schedule.warmup", "1 epochs", "--optim.schedule.end-value=0"], "optim.schedule"))
    ['end_value', 'warmup']
    """
    flags = [arg.partition("=")[0].removeprefix("--").replace("-", "_") for arg in argv if arg.startswith("--")]
    return frozenset(flag.removeprefix(f"{of}.") for flag in flags if flag.startswith(f"{of}."))
