"""``resnet-jax prune RUN --out DIR``: make a smaller network from a trained one, fine-tune it and measure its speed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, console_for, flags_last, parse
from resnet_jax.cli.train import typed_values
from resnet_jax.deploy.prune.how import HowToPrune
from resnet_jax.report.text import say
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.legacy import translate
from resnet_jax.runs.legacy_augment import translate_flags


@dataclasses.dataclass(frozen=True)
class PruneOptions:
    """Options of ``prune``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, trained or imported, or a name from `weights list`."""
    out: Path
    """The output directory: a run directory for one ratio, or a directory of them for several."""
    how: Annotated[HowToPrune, tyro.conf.arg(name="")] = dataclasses.field(default_factory=HowToPrune)
    """What to remove."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    """Options for the data and the fine-tuning, which override the run's own."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Remove the least important channels and blocks, and write the smaller, faster network as a run directory for "
    "train, eval, predict and export. With --finetune it is trained further with the run's own recipe. Several ratios "
    "give a table of accuracy against speed. --by magnitude zeroes individual weights, which stay zero in training; "
    "--by lottery does so in rounds, each of which rewinds to an early step."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Prune the network and return what was made."""
    words = translate_flags(translate(flags_last(argv)), ())
    options = parse(PruneOptions, words, verb="prune", about=ABOUT)
    given, console = typed_values(options.config, words), console_for(options.common)
    path = existing_run(options.run_dir)
    from resnet_jax.deploy.prune.prune import prune

    return prune(path, options.out, options.how, given=given, console=console,
                 tell=lambda line: say(console, line))  # fmt: skip
