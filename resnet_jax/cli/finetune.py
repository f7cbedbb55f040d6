"""``resnet-jax finetune RUN_OR_WEIGHTS --data PATH``: a network of before, made to fit other images."""

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
    """A run directory, trained or imported; a name that `weights list` lists; or a weights file, with --model NAME
    where it does not name its network."""
    how: Annotated[HowToFinetune, tyro.conf.arg(name="")] = dataclasses.field(default_factory=HowToFinetune)
    """How to fine-tune."""
    out: Path | None = None
    """The directory, with one of each stage (default: runs/finetune-DATA-HASH). The same command goes on there; --seeds
    may be larger than before. --run-dir is the same."""
    weights: Annotated[ImportAs, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ImportAs)
    """How a weights file is read."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    """Options of the training of the whole network, in place of what is chosen; those of the data go for all stages."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Fine-tune a network on the images of --data PATH (as train --data takes them): a linear probe on its frozen "
    "features first, as the baseline; then the classifier alone, then the whole network, with rates that fall towards "
    "the stem. What is chosen for the data is said with its reason; options that are given go before. It ends with a "
    "table of before and after. The same command goes on with what was stopped."
)
#: Shorter ways to say options.
SHORT = {"--run-dir": "--out", "--model": "--model.name"}
#: Fields that the verb says itself, and how.
SAID = {
    "recipe": "--data PATH in place of a recipe",
    "data.source": "--data PATH",
    "init_from": "the run directory or weights file after the verb",
}


def run(argv: list[str]) -> dict[str, Any]:
    """Fine-tune; return the table."""
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
