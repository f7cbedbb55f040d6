"""``resnet-jax compare RUN ...``: compare runs side by side, and show which differ by more than their seeds do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, console_for, parse


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Options of ``compare``."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")]
    """Run directories, finished or not. Runs whose configurations differ only in the seed form one row."""
    out: Path | None = None
    """Write report.html (a self-contained page), its figures, runs.csv and curves.csv to this folder."""
    metric: str | None = None
    """The metric to compare, such as macro_f1 or loss (default: the task's headline metric)."""
    group_by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OPTION ...")] = ()
    """Options whose values define the rows, such as model.norm. Other options may then differ within a row (default:
    all options)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    "Compare runs side by side: configurations, progress, test and validation results, mean and standard deviation "
    "over seeds. Differences are tested with Student's t-test, paired if two rows have the same seeds, and with "
    "Welch's test otherwise."
)


def run(argv: list[str]) -> dict[str, Any]:
    """Print the table and the differences, and return them."""
    options = parse(CompareOptions, argv, verb="compare", about=ABOUT)
    for path in options.runs:
        if not path.is_dir():
            existing_run(path)
    from resnet_jax.report.text import say
    from resnet_jax.runs.compare import compare_runs
    from resnet_jax.runs.compare_table import as_json, lines

    found = compare_runs(options.runs, metric=options.metric, group_by=options.group_by)
    console = console_for(options.common)
    for line in lines(found):
        say(console, line)
    result = as_json(found)
    if options.out is not None:
        from resnet_jax.runs.compare_report import write_comparison

        path = write_comparison(found, options.out)
        say(console, f"report {path}")
        result["report"] = str(path)
    return result
