"""``resnet-jax data convert SOURCE OUT.array_record``: a copy of any data set as one file for random access."""

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
    """The data set, as data.source names it: folder:PATH, npz:PATH, manifest:PATH, tfds:NAME, digits, ..."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The file to write; array_record:OUT then opens it."""
    class_pattern: str | None = None
    """As data.class_pattern."""
    class_list: str | None = None
    """As data.class_list."""
    signal_length: AtLeast1 | None = None
    """As data.signal_length."""
    void_value: AtLeast0 | None = None
    """As data.void_value."""
    threads: AtLeast1 = 4
    """Threads that read the source."""
    overwrite: bool = False
    """Replace OUT if it is there."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Copies all splits of a data set, with labels and class names, into one ArrayRecord file. Image files are copied "
    "byte for byte: how they are decoded (data.pixels, data.orientation, channels) is said when the copy is opened."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Copy, and return what was written."""
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
