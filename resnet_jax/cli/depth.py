"""``resnet-jax depth profile | jacobian | lesion | check``: what happens to signals and gradients through depth."""

from __future__ import annotations

import dataclasses
import importlib
import time
from typing import Any

from resnet_jax.cli.depth_options import TargetOptions, draw, find, make_directory, outcome, output_directory, save
from resnet_jax.cli.options import console_for, parse
from resnet_jax.errors import UsageError, unknown

#: Sub-verb -> what it needs; all but ``profile`` are modules ``depth_NAME`` beside this one.
VERBS = {"profile": "TARGET ...", "jacobian": "TARGET ...", "lesion": "TARGET ...", "check": "TARGET ..."}


@dataclasses.dataclass(frozen=True)
class ProfileOptions(TargetOptions):
    """Options of ``depth profile``."""

    learning_rate: float = 0.1
    """Of the SGD whose update is measured in a named network; a run has its own optimizer."""


def run(argv: list[str]) -> dict[str, Any] | None:
    """Measure, write arrays, figures and report, and return the figures."""
    if not argv or argv[0] in ("-h", "--help"):
        listed = " or ".join(f"{name} {needs}" for name, needs in VERBS.items())
        raise UsageError(
            f"name what to look at: resnet-jax depth {listed}; TARGET is a network's name or a run directory"
        )
    if argv[0] not in VERBS:
        raise unknown("depth verb", argv[0], VERBS)
    if argv[0] == "profile":
        return _profile(argv[1:])
    return importlib.import_module(f"resnet_jax.cli.depth_{argv[0]}").run(argv[1:])


def _profile(argv: list[str]) -> dict[str, Any]:
    began = time.perf_counter()
    about = "Signals and gradients at every block of a network, on one batch: arrays, figures, and a report to read."
    options = parse(ProfileOptions, argv, verb="depth profile", about=about)
    from resnet_jax.examine import profile_subject
    from resnet_jax.report.depth_report import FIGURES, write_profile_report

    out = output_directory(options, ("profile.npz", *FIGURES))
    console = console_for(options.common)
    with console.status(f"{options.target}: one forward and one backward pass"):
        subject = find(options, learning_rate=options.learning_rate)
        make_directory(out)
        found = profile_subject(subject)
    save(found.save, out / "profile.npz")
    title, facts = f"Depth profile of {subject.name}", found.about["facts"]
    console.print(f"{len(found)} blocks; arrays {out / 'profile.npz'}", highlight=False, soft_wrap=True, markup=False)
    with console.status("drawing"):
        draw(console, lambda: write_profile_report(found, out, title=title, facts=facts))
    return outcome(len(found), began, out)
