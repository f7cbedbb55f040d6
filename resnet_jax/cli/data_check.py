"""``resnet-jax data check SOURCE``: what is in a data set, what is wrong with it, and what is in it twice."""

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
    """The data set, as data.source names it (folder:PATH, voc:PATH, wav:PATH, ...), or a path, whose kind is found."""
    strict: bool = False
    """Fail for near duplicates in two splits too, and for equal inputs with different labels."""
    near: Annotated[int, Interval(ge=0, le=16)] = NEAR
    """Bits of 64 in which the hashes of near duplicates may differ."""
    likeness: Share = LIKENESS
    """Correlation that their small grey images have at least."""
    pixels: Pixels = "uint8"
    """As data.pixels."""
    orientation: Orientation = "stored"
    """As data.orientation."""
    class_pattern: str | None = None
    """As data.class_pattern."""
    class_list: str | None = None
    """As data.class_list."""
    signal_length: AtLeast1 | None = None
    """As data.signal_length."""
    void_value: AtLeast0 | None = None
    """As data.void_value."""
    threads: AtLeast1 | None = None
    """That decode (default: one a processor)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Reads every example once: examples of each class and split, sizes and formats, mean and deviation, what cannot be "
    "read, what is there twice or nearly so, within and across splits. Exit status 1 if something cannot be read or "
    "lies in two splits; with --strict also for near duplicates in two splits and equal inputs with different labels."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Check, print the report and return it.

    Raises:
        CheckError: something cannot be read, or lies in two splits; it carries the report.
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
