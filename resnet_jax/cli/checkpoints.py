"""``resnet-jax checkpoints RUN_DIR``: list the checkpoints of a run and verify that they are undamaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.report.text import say


@dataclasses.dataclass(frozen=True)
class CheckpointsOptions:
    """Options of ``checkpoints``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run directory."""
    verify: bool = False
    """Compare every file with the digests that were stored with it. The exit status is 1 if any checkpoint is
    damaged."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "List the checkpoints of a run: kind, step, metric, size, age and state (complete, damaged, unfinished, set "
    "aside, or of an older or later format). Nothing is changed: damaged checkpoints are set aside when a run resumes."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Print the list of checkpoints and return it.

    Raises:
        CheckError: with ``--verify``, if a checkpoint is damaged; it carries the list.
    """
    options = parse(CheckpointsOptions, argv, verb="checkpoints", about=ABOUT)
    import time

    from resnet_jax.errors import CheckError
    from resnet_jax.runs.checkpoints import as_json, list_checkpoints, table

    found = list_checkpoints(options.run_dir, verify=options.verify)
    console = console_for(options.common)
    for line in table(found, time.time()) if found else ["no checkpoints"]:
        say(console, line)
    result = as_json(found)
    if options.verify and result["damaged"]:
        raise CheckError(
            f"{result['damaged']} of {len(found)} checkpoints in {options.run_dir} are damaged; other checkpoints "
            "are used instead, and the run sets the damaged ones aside when it resumes",
            result,
        )
    return result
