"""``resnet-jax finetune RUN_OR_WEIGHTS --data PATH``: fine-tune a trained network on other images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.named import run_directory
from resnet_jax.cli.options import Common, asks_for_help, console_for, flags_last, parse, spelled_out
from resnet_jax.cli.train import split_data, typed_values
from resnet_jax.errors import UsageError
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.finetune_how import HowToFinetune, ImportAs
from resnet_jax.runs.legacy import translate
from resnet_jax.runs.legacy_augment import translate_flags


@dataclasses.dataclass(frozen=True)
class FinetuneOptions:
    """Options of ``finetune``."""

    start: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_OR_WEIGHTS")]
    """A run directory, trained or imported; a name from `weights list`; or a weights file, with --model NAME if the
    file does not name its network."""
    how: Annotated[HowToFinetune, tyro.conf.arg(name="")] = dataclasses.field(default_factory=HowToFinetune)
    """How to fine-tune."""
    out: Path | None = None
    """The output directory, with one subdirectory per stage (default: runs/finetune-DATA-HASH). Run the same command
    again to resume, if you like with more --seeds. --run-dir means the same."""
    weights: Annotated[ImportAs, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ImportAs)
    """How to read a weights file."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    """Options for training the whole network, which override the choices made for you. Data options apply to all
    stages."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Fine-tune a network on the images at --data PATH (in any form that train --data accepts). First a linear probe on "
    "the frozen features sets the baseline; then the classifier is trained alone, and then the whole network with "
    "learning rates that decrease towards the stem. Every choice made for the data is printed with its reason, and "
    "options that you give override it. The result is a table of before and after. Run the same command to resume."
)
#: Short forms of options.
SHORT = {"--run-dir": "--out", "--model": "--model.name"}
#: Fields that the verb sets itself, and the arguments that replace them.
SAID = {
    "recipe": "--data PATH in place of a recipe",
    "data.source": "--data PATH",
    "init_from": "the run directory or weights file after the verb",
}


def run(argv: list[str]) -> dict[str, Any]:
    """Fine-tune the network and return the table."""
    words, data = split_data(flags_last(argv))
    help_wanted = asks_for_help(words) or any(word in ("-h", "--help") for word in words)
    words = translate_flags(translate(words), ())
    options = parse(FinetuneOptions, words, verb="finetune", about=ABOUT, short=SHORT)
    if data is None and not help_wanted:
        raise UsageError("say what to fine-tune on: resnet-jax finetune RUN_OR_WEIGHTS --data PATH")
    given = typed_values(options.config, spelled_out(words, SHORT))
    for field, instead in SAID.items():
        if field in given:
            raise UsageError(f"--{field.replace('_', '-')} does not go with finetune: it is {instead}")
    from resnet_jax.runs.finetune_run import FinetuneDirectory, default_out, finetune

    out = options.out or default_out(str(options.start), str(data), options.how, given)
    table = finetune(
        run_directory(options.start),
        str(data),
        options.how,
        out=out,
        given=given,
        weights=options.weights,
        console=console_for(options.common),
    )
    return {
        "out": str(out),
        "table": str(FinetuneDirectory(out).table),
        "method": options.how.method,
        **table.to_json(),
    }
