"""``resnet-jax data prepare NAME``: prepare a TensorFlow Datasets set on this disk, so that ``tfds:NAME`` opens it."""

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
    """The name in TensorFlow Datasets: mnist, cifar10, imagenet2012, imagenette/160px-v2, ..."""
    data_dir: Path | None = None
    """The directory that holds prepared data sets (default: TFDS_DATA_DIR if set, else ~/tensorflow_datasets)."""
    source: str | None = None
    """Take the examples from this data set instead of downloading them: folder:PATH, npz:PATH or any other data.source.
    --from is short for it."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Download a data set with TensorFlow Datasets and prepare it in a random-access format, or prepare it from files "
    "that you have (--from). TensorFlow is needed only if the data set's own code needs it, and never for reading."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Prepare the data set and return where it is."""
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
