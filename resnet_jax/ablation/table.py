"""The table of an ablation: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from resnet_jax.ablation.result import CellResult
from resnet_jax.report.text import visible
from resnet_jax.tasks.task import SHARES


def percent(mean: float | None, std: float | None) -> str:
    """Format a mean and its standard deviation in percent.

    >>> percent(0.91234, 0.00456), percent(0.5, None), percent(None, None)
    ('91.23 ± 0.46', '50.00', '-')
    """
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def scored(mean: float | None, std: float | None, headline: str) -> str:
    """Format a mean and its standard deviation like the metric: fractions in percent, others as numbers.

    >>> scored(0.91234, 0.00456, "accuracy"), scored(0.91234, 0.00456, "r2"), scored(None, None, "r2")
    ('91.23 ± 0.46', '0.9123 ± 0.0046', '-')
    """
    if headline in SHARES or mean is None:
        return percent(mean, std)
    return f"{mean:.4g}" + ("" if std is None else f" ± {std:.2g}")


def headline_of(results: Sequence[CellResult]) -> str:
    """Return the metric of a table: that of the first cell with a result."""
    return next((result.headline for result in results if result.scores), "accuracy")


def markdown(results: Sequence[CellResult], *, title: str) -> str:
    """Return the table as Markdown, one row per cell, whatever its outcome."""
    columns = [*results[0].cell.labels]
    seeds = ", ".join(str(seed) for seed in results[0].seeds)
    headline = headline_of(results)
    metric = f"test {headline.replace('_', ' ')}" + (" %" if headline in SHARES else "")
    errors = ["test error %"] if headline == "accuracy" else []
    header = [*columns, metric, *errors, "n", "diverged", "stuck", "parameters", "seconds"]
    lines = [
        f"# {_escape(title)}",
        "",
        f"Mean ± sample standard deviation over the n seeds that did not diverge, of seeds {seeds}. The last state is "
        "tested, once. Stuck are those that ended no better than chance; they count in the mean. Seconds are those of "
        "training steps, all seeds together, without compilation and evaluation.",
        "",
        "| " + " | ".join(_escape(name) for name in header) + " |",
        "|" + "|".join(["---"] * len(columns) + ["---:"] * (6 + len(errors))) + "|",
    ]
    lines += ["| " + " | ".join(_escape(text) for text in _row(result, headline)) + " |" for result in results]
    return "\n".join(lines) + "\n"


def _row(result: CellResult, headline: str) -> list[str]:
    none = ["-"] * (4 if headline == "accuracy" else 3)
    labels = [*result.cell.labels.values()]
    params = "-" if result.params is None else f"{result.params:,}"
    if result.refused is not None:
        return [*labels, f"refused: {' '.join(result.refused.split())}", *none, params, "-"]
    if not result.members:
        return [*labels, "not run yet", *none, params, "-"]
    done = len(result.members)
    score = scored(result.mean, result.std, result.headline)
    if result.headline != headline:  # of another task than the column's
        score += f" {result.headline.replace('_', ' ')}"
    if result.mean is None:
        score = "diverged"
    if done < len(result.seeds):
        score += f" ({done} of {len(result.seeds)} seeds run)"
    error = [percent(None if result.mean is None else 1 - result.mean, result.std)] if headline == "accuracy" else []
    failed = [f"{len(seeds)} of {done}" for seeds in (result.diverged, result.stuck)]
    return [*labels, score, *error, str(len(result.scores)), *failed, params, f"{result.seconds:.1f}"]


def _escape(text: str) -> str:
    """Return text that Markdown shows unchanged, in one line."""
    return re.sub(r"([\\|<>*`\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", visible(text))


def comma_separated(results: Sequence[CellResult]) -> str:
    """Return the table as CSV: fractions, not percent; empty where there is no number; one column per seed."""
    columns, seeds, headline = [*results[0].cell.labels], results[0].seeds, headline_of(results)
    errors = ("error_mean", "error_std") if headline == "accuracy" else ()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            *("id", *columns, "status", f"{headline}_mean", f"{headline}_std", *errors, "n"),
            *("diverged", "stuck", "parameters", "seconds", "reason"),
            *(f"{headline}_seed_{seed}" for seed in seeds),
            *(f"diverged_at_seed_{seed}" for seed in seeds),
            *(f"stuck_seed_{seed}" for seed in seeds),
        ]
    )
    for result in results:
        error = (None if result.mean is None else 1 - result.mean, result.std) if errors else ()
        scores = {member.seed: member.score for member in result.members}
        counts = (len(result.scores), len(result.diverged), len(result.stuck)) if result.members else (None,) * 3
        stuck = {member.seed: member.stuck for member in result.members}
        numbers = (result.mean, result.std, *error, *counts)
        writer.writerow(
            [
                *(result.cell.id, *result.cell.labels.values(), result.status),
                *numbers,
                *(result.params, result.seconds if result.members else None, result.refused),
                *(scores.get(seed) for seed in seeds),
                *(result.diverged.get(seed) for seed in seeds),
                *(stuck.get(seed) for seed in seeds),
            ]
        )
    return visible(file.getvalue(), keep="\n\r\t")
