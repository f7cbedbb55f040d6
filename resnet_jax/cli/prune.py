"""``resnet-jax prune RUN --out DIR``: a smaller network of a trained one, fine-tuned and timed."""

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
    """The run directory, trained or imported, or a name that `weights list` lists."""
    out: Path
    """The directory to write: with one ratio a run directory, with several one of each."""
    how: Annotated[HowToPrune, tyro.conf.arg(name="")] = dataclasses.field(default_factory=HowToPrune)
    """What goes."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    """Options of the data and of the fine-tuning, in place of the run's own."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Remove channels and blocks that matter least, so that the network is smaller and faster, and write it as a run "
    "directory: train, eval, predict and export take it. With --finetune it is trained on with the run's own recipe. "
    "Several ratios make a table of accuracy against speed. --by magnitude makes single weights zero, which stay so in "
    "training; --by lottery does so in rounds and goes back to an early step."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Prune; return what was made."""
    words = translate_flags(translate(flags_last(argv)), ())
    options = parse(PruneOptions, words, verb="prune", about=ABOUT)
    given, console = typed_values(options.config, words), console_for(options.common)
    path = existing_run(options.run_dir)
    from resnet_jax.deploy.prune.prune import prune

    return prune(path, options.out, options.how, given=given, console=console,
                 tell=lambda line: say(console, line))  # fmt: skip
