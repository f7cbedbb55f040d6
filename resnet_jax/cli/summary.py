"""``resnet-jax summary MODEL|RUN``: list a network's layers with output shape, parameters and multiply-adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.fields import AtLeast1, check_fields
from resnet_jax.models.spec import ModelChanges
from resnet_jax.report.text import say
from resnet_jax.runs.analysis_options import require_target

if TYPE_CHECKING:
    from resnet_jax.models.summary import Row


@dataclasses.dataclass(frozen=True)
class SummaryOptions:
    """Options of ``summary``."""

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL|RUN_DIR")]
    """A network, by a name that `resnet-jax models` lists, or a run directory."""
    depth: Literal[1, 2, 3] = 3
    """The level of detail. 3: every layer; 2: every block; 1: stem, stages and head."""
    image_size: AtLeast1 | None = None
    """Side of the input (default: the named network's or the run's own size)."""
    model: ModelChanges = dataclasses.field(default_factory=ModelChanges)
    """Changes to a named network."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Print the table and return its rows."""
    about = "List every layer: path, kind, output shape, parameters, multiply-adds. Nothing is computed."
    options = parse(SummaryOptions, argv, verb="summary", about=about)
    check_fields(options)
    require_target(options.target)
    from resnet_jax.models.summary import summarize, total
    from resnet_jax.runs.summarized import network_of

    model, shape = network_of(options.target, options.model, options.image_size)
    rows = summarize(model, shape, options.depth)
    sums, console = total(rows), console_for(options.common)
    for line in table(rows):
        say(console, line)
    say(console, f"input {_shape(shape)}; {sums.params:,} parameters ({sums.params * 4 / 2**20:.2f} MiB in float32), "
                 f"{sums.batch_stats:,} batch statistics, {sums.macs:,} multiply-adds an example")  # fmt: skip
    return {
        "target": options.target,
        "input": list(shape),
        "rows": [dataclasses.asdict(row) for row in rows],
        "total": dataclasses.asdict(sums),
    }


def table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table, starting with a header."""
    cells = [("path", "kind", "block", "output", "parameters", "multiply-adds")]
    for row in rows:
        kind = f"{row.kind} x{row.calls}" if row.calls > 1 else row.kind
        block = "" if row.block is None else str(row.block)
        cells.append((row.path or ".", kind, block, _shape(row.shape), f"{row.params:,}", f"{row.macs:,}"))
    widths = [max(len(line[column]) for line in cells) for column in range(6)]
    sides = "<<><>>"
    return ["  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()
            for line in cells]  # fmt: skip


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "-"
