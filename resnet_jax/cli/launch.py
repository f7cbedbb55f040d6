"""``resnet-jax launch --local N -- VERB ...``: try a verb in several processes on this machine."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import tyro

from resnet_jax.cli.options import Common, parse
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1

ABOUT = (
    "Run a verb in several processes on this machine, to try what a cluster will do: "
    "resnet-jax launch --local 2 -- train digits. The words after -- are the command. The first process prints as it "
    "would alone; lines of the others start with their number. Signals are forwarded, and when one process ends, all "
    "end. On clusters srun, mpirun, JobSet and others start the processes, without launch (docs/processes.md)."
)


@dataclasses.dataclass(frozen=True)
class LaunchOptions:
    """Options of ``launch``."""

    local: AtLeast1
    """The number of processes to start on this machine."""
    devices_per_process: AtLeast1 | None = None
    """Devices per process (default: 1 on CPUs, an equal share of the GPUs otherwise)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> None:
    """Start the processes, wait for them, and exit with the status of the first one that failed.

    Raises:
        UsageError: if there is no command.
    """
    own, dashes, words = _cut(argv)
    options = parse(LaunchOptions, own, verb="launch", about=ABOUT)
    if not dashes or not words:
        raise UsageError("launch takes a command after --: resnet-jax launch --local 2 -- train digits")
    for name, value in (("--local", options.local), ("--devices-per-process", options.devices_per_process)):
        if value is not None and value < 1:
            raise UsageError(f"launch {name} must be 1 or more, got {value}")
    from resnet_jax.runtime.launcher import launch

    sys.exit(launch(words, options.local, devices=options.devices_per_process))


def _cut(argv: list[str]) -> tuple[list[str], bool, list[str]]:
    """Return the arguments before ``--``, whether there is a ``--``, and the arguments after it."""
    if "--" not in argv:
        return argv, False, []
    place = argv.index("--")
    return argv[:place], True, argv[place + 1 :]
