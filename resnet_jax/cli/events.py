"""``resnet-jax events RUN_DIR``: show what happened to a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse


@dataclasses.dataclass(frozen=True)
class EventsOptions:
    """Options of ``events``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run directory."""
    only: tuple[str, ...] = ()
    """Kinds of events to show, such as save or damaged (default: all)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Show what happened to a run, oldest first, with times in UTC: start, restore, save, save_failed, interval, "
    "damaged, fallback, reject, rollback, write_failed, write_resumed, left_out, stop, end. --json adds the details."
)


def run(argv: list[str]) -> list[dict[str, Any]]:
    """Print one line per event, and return the events."""
    options = parse(EventsOptions, argv, verb="events", about=ABOUT)
    from resnet_jax.errors import UsageError
    from resnet_jax.report.event_sentences import line
    from resnet_jax.report.text import say
    from resnet_jax.runs.directory import RunDirectory
    from resnet_jax.runtime.events import read_events

    run = RunDirectory(options.run_dir)
    if not run.events.exists():
        run = RunDirectory.existing(options.run_dir)
        raise UsageError(f"{run.path} has no {run.events.name}: it is older than event logs, or not a trained run")
    found = [event for event in read_events(run.events) if not options.only or event["event"] in options.only]
    console = console_for(options.common)
    for event in found:
        say(console, line(event))
    if not found:
        say(console, "no such events" if options.only else "no events")
    return found
