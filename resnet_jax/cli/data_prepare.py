"""``resnet-jax data prepare NAME``: a set of TensorFlow Datasets on this disk, so that ``tfds:NAME`` opens it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.report.text import say, working


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """Options of ``data prepare``."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """The set, as TensorFlow Datasets names it: mnist, cifar10, imagenet2012, imagenette/160px-v2, ..."""
    data_dir: Path | None = None
    """Where sets lie (default: what TFDS_DATA_DIR says, else ~/tensorflow_datasets)."""
    source: str | None = None
    """Take the examples from this data set instead of downloading: folder:PATH, npz:PATH, any data.source. --from is
    short for it."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Downloads a set with TensorFlow Datasets and prepares it in the format that is read at random, or does it from "
    "files that you have (--from). TensorFlow is needed only where the set's own code needs it, and reading never does."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Prepare, and return where it lies."""
    options = parse(PrepareOptions, argv, verb="data prepare", about=ABOUT, short={"--from": "--source"})
    from resnet_jax.data.prepare import prepare

    console = console_for(options.common)
    with working(console, f"preparing {options.name}") as status:
        prepared = prepare(
            options.name,
            options.data_dir,
            source=options.source,
            say=lambda line: say(console, line),
            progress=status.update,
        )
    for line in prepared.lines():
        say(console, line)
    return prepared.to_dict()
