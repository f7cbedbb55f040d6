"""``resnet-jax doctor``: report what this installation has, what is slow and why, and what is broken."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.errors import CheckError
from resnet_jax.report.text import say


@dataclasses.dataclass(frozen=True)
class DoctorOptions:
    """Options of ``doctor``."""

    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Run the diagnosis, print the report and return it.

    Raises:
        CheckError: if something important is broken.
    """
    about = (
        "Report versions, devices, compiler, caches, optional packages, environment variables, and what is slow and "
        "why, as text to paste into an issue. The exit status is 1 if something does not work."
    )
    options = parse(DoctorOptions, argv, verb="doctor", about=about)
    from resnet_jax.bench.doctor import diagnose

    console, found = console_for(options.common), diagnose()
    for line in found.lines():
        say(console, line)
    if found.broken:
        count = len(found.broken)
        raise CheckError(f"{count} {'thing is' if count == 1 else 'things are'} broken; see findings", found.to_json())
    return found.to_json()
