"""``resnet-jax data convert SOURCE OUT.array_record``: copy any data set into one file for random access."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.fields import AtLeast0, AtLeast1, check_fields
from resnet_jax.report.text import say, working


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """Options of ``data convert``."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The data set, in the syntax of data.source: folder:PATH, npz:PATH, manifest:PATH, tfds:NAME, digits, ..."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The file to write. Open it with array_record:OUT."""
    class_pattern: str | None = None
    """How the class is found in file names; see data.class_pattern."""
    class_list: str | None = None
    """A file that lists the classes; see data.class_list."""
    signal_length: AtLeast1 | None = None
    """The length that signals are brought to; see data.signal_length."""
    void_value: AtLeast0 | None = None
    """The mask value that stands for no class; see data.void_value."""
    threads: AtLeast1 = 4
    """Threads that read the source."""
    overwrite: bool = False
    """Replace OUT if it exists."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Copy all splits of a data set, with labels and class names, into one ArrayRecord file. Image files are copied "
    "byte for byte; how to decode them (data.pixels, data.orientation, channels) is decided when the copy is opened."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Copy the data set and return what was written."""
    options = parse(ConvertOptions, argv, verb="data convert", about=ABOUT)
    check_fields(options)
    from resnet_jax.data.convert import convert
    from resnet_jax.data.reading import Reading

    console = console_for(options.common)
    reading = Reading(
        least_classes=1,
        class_pattern=options.class_pattern,
        class_list=options.class_list,
        signal_length=options.signal_length,
        void_value=options.void_value,
    )
    with working(console, f"opening {options.source}") as status:
        written = convert(
            options.source,
            options.out,
            reading=reading,
            threads=options.threads,
            overwrite=options.overwrite,
            progress=status.update,
        )
    for line in written.lines():
        say(console, line)
    return written.to_dict()
