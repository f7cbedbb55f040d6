"""``resnet-jax data check SOURCE``: report what a data set contains, what is wrong with it, and what is duplicated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from annotated_types import Interval

from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.data.check_hash import LIKENESS, NEAR
from resnet_jax.data.reading import Orientation, Pixels
from resnet_jax.errors import CheckError
from resnet_jax.fields import AtLeast0, AtLeast1, Share, check_fields
from resnet_jax.report.text import say, working


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """Options of ``data check``."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The data set, in the syntax of data.source (folder:PATH, voc:PATH, wav:PATH, ...), or a path whose kind is
    detected."""
    strict: bool = False
    """Also fail on near duplicates across splits and on identical inputs with different labels."""
    near: Annotated[int, Interval(ge=0, le=16)] = NEAR
    """The maximum number of bits, out of 64, in which the hashes of near duplicates may differ."""
    likeness: Share = LIKENESS
    """The minimum correlation between the grayscale thumbnails of near duplicates."""
    pixels: Pixels = "uint8"
    """How image files are read; see data.pixels."""
    orientation: Orientation = "stored"
    """How image orientation is handled; see data.orientation."""
    class_pattern: str | None = None
    """How the class is found in file names; see data.class_pattern."""
    class_list: str | None = None
    """A file that lists the classes; see data.class_list."""
    signal_length: AtLeast1 | None = None
    """The length that signals are brought to; see data.signal_length."""
    void_value: AtLeast0 | None = None
    """The mask value that stands for no class; see data.void_value."""
    threads: AtLeast1 | None = None
    """Decoding threads (default: one per processor)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Read every example once and report: examples per class and split, sizes and formats, mean and standard deviation, "
    "unreadable examples, and duplicates and near duplicates within and across splits. The exit status is 1 if an "
    "example cannot be read or appears in two splits; with --strict also for near duplicates in two splits and for "
    "identical inputs with different labels."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Check the data set, print the report and return it.

    Raises:
        CheckError: if something cannot be read or appears in two splits; it carries the report.
    """
    options = parse(CheckOptions, argv, verb="data check", about=ABOUT)
    check_fields(options)
    from resnet_jax.data.check import check_dataset
    from resnet_jax.data.check_text import report_lines
    from resnet_jax.data.look import source_of
    from resnet_jax.data.reading import Reading
    from resnet_jax.data.source import load_dataset

    console = console_for(options.common)
    reading = Reading(
        None,
        1,
        options.pixels,
        options.orientation,
        options.class_pattern,
        options.class_list,
        signal_length=options.signal_length,
        void_value=options.void_value,
    )
    source = source_of(options.source) if Path(options.source).expanduser().exists() else options.source
    with working(console, f"opening {source}") as status:
        dataset = load_dataset(source, reading)
        report = check_dataset(
            dataset, near=options.near, likeness=options.likeness, threads=options.threads, progress=status.update
        )
    for line in report_lines(report):
        say(console, line)
    say(console, f"\n{sum(report.examples.values()):,} examples in {report.seconds:.1f} s")
    result = report.to_dict(strict=options.strict)
    problems = report.problems(strict=options.strict)
    if problems:
        raise CheckError(f"{dataset.name} did not pass: {'; '.join(problems)}", result)
    return result
