"""``resnet-jax launch --local N -- VERB ...``: a verb in several processes on this machine, for a try."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import tyro

from resnet_jax.cli.options import Common, parse
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1

ABOUT = (
    "Run a verb in several processes on this machine, for a try of what a cluster will do: "
    "resnet-jax launch --local 2 -- train digits. The words behind -- are the command. The first process prints as it "
    "would alone, lines of the others have their number before them; signals are passed on; when one ends, all end. On "
    "clusters srun, mpirun, JobSet and others start the processes, and no launch is needed (docs/processes.md)."
)


@dataclasses.dataclass(frozen=True)
class LaunchOptions:
    """Options of ``launch``."""

    local: AtLeast1
    """Processes to start here."""
    devices_per_process: AtLeast1 | None = None
    """Devices of each (default: 1 on CPUs, an equal share of the GPUs)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> None:
    """Start the processes, wait for them, and exit as the first that failed did.

    Raises:
        UsageError: there is no command.
    """
    own, dashes, words = _cut(argv)
    options = parse(LaunchOptions, own, verb="launch", about=ABOUT)
    if not dashes or not words:
        raise UsageError("launch takes a command behind --: resnet-jax launch --local 2 -- train digits")
    for name, value in (("--local", options.local), ("--devices-per-process", options.devices_per_process)):
        if value is not None and value < 1:
            raise UsageError(f"launch {name} must be 1 or more, got {value}")
    from resnet_jax.runtime.launcher import launch

    sys.exit(launch(words, options.local, devices=options.devices_per_process))


def _cut(argv: list[str]) -> tuple[list[str], bool, list[str]]:
    """Return the words before ``--``, whether there is one, and those behind it."""
    if "--" not in argv:
        return argv, False, []
    place = argv.index("--")
    return argv[:place], True, argv[place + 1 :]
