"""``resnet-jax depth profile | jacobian | lesion | check``: examine signals and gradients through depth."""

from __future__ import annotations

import dataclasses
import importlib
import time
from typing import Any

from resnet_jax.cli.depth_options import (
    SHORT,
    TargetOptions,
    draw,
    find,
    make_directory,
    outcome,
    output_directory,
    require_named,
    save,
)
from resnet_jax.cli.options import asks_for_help, console_for, flags_last, list_verbs, parse
from resnet_jax.errors import UsageError, unknown
from resnet_jax.report.text import say, working

#: Sub-verb -> what it does. All but ``profile`` are modules ``depth_NAME`` beside this one.
VERBS = {
    "profile": "TARGET: signals and gradients at every block, on one batch",
    "jacobian": "TARGET: singular values of the Jacobian of every block and of the whole network",
    "lesion": "TARGET: what the network loses without its blocks, and which paths its gradient takes",
    "check": "NETWORK: exit status 1 if signals or gradients do not get through at initialization",
}


@dataclasses.dataclass(frozen=True)
class ProfileOptions(TargetOptions):
    """Options of ``depth profile``."""

    learning_rate: float = 0.1
    """Learning rate of the SGD update that is measured for a named network. A run uses its own optimizer."""


def run(argv: list[str]) -> dict[str, Any] | None:
    """Run the measurement, write arrays, figures and a report, and return the figures."""
    argv = flags_last(argv)
    if asks_for_help(argv):
        print(list_verbs("depth", VERBS, "TARGET is the name of a network, or a run directory.\n"))
        return None
    if not argv or argv[0].startswith("-"):
        listed = ", ".join(VERBS)
        raise UsageError(f"name what to look at: resnet-jax depth VERB TARGET; verbs: {listed} (depth --help)")
    if argv[0] not in VERBS:
        raise unknown("depth verb", argv[0], VERBS)
    if argv[0] == "profile":
        return _profile(argv[1:])
    return importlib.import_module(f"resnet_jax.cli.depth_{argv[0]}").run(argv[1:])


def _profile(argv: list[str]) -> dict[str, Any]:
    began = time.perf_counter()
    about = "Measure signals and gradients at every block of a network, on one batch: arrays, figures and a report."
    options = parse(ProfileOptions, argv, verb="depth profile", about=about, short=SHORT)
    require_named(options)
    from resnet_jax.report.depth_report import FIGURES, write_profile_report
    from resnet_jax.runs.analysis import profile_target

    out = output_directory(options, ("profile.npz", *FIGURES), "profile")
    console = console_for(options.common)
    with working(console, f"{options.target}: one forward and one backward pass"):
        target = find(options, learning_rate=options.learning_rate)
        make_directory(out)
        found = profile_target(target)
    save(found.save, out / "profile.npz")
    title, facts = f"Depth profile of {target.name}", found.about["facts"]
    say(console, f"{len(found)} blocks; arrays {out / 'profile.npz'}")
    with working(console, "drawing"):
        draw(console, lambda: write_profile_report(found, out, title=title, facts=facts))
    return outcome(len(found), began, out)
