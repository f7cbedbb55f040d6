"""The table of an ablation: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from resnet_jax.ablation.result import CellResult
from resnet_jax.report.text import visible


def percent(mean: float | None, std: float | None) -> str:
    """Write a mean and its standard deviation in percent.

    >>> percent(0.91234, 0.00456), percent(0.5, None), percent(None, None)
    ('91.23 ± 0.46', '50.00', '-')
    """
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def markdown(results: Sequence[CellResult], *, title: str) -> str:
    """Return the table as Markdown, a row per cell, whatever became of it."""
    columns = [*results[0].cell.labels]
    seeds = ", ".join(str(seed) for seed in results[0].seeds)
    header = [*columns, "test accuracy %", "test error %", "n", "diverged", "stuck", "parameters", "seconds"]
    lines = [
        f"# {_escape(title)}",
        "",
        f"Mean ± sample standard deviation over the n seeds that did not diverge, of seeds {seeds}. The last state is "
        "tested, once. Stuck are those that ended no better than chance; they count in the mean. Seconds are those of "
        "training steps, all seeds together, without compilation and evaluation.",
        "",
        "| " + " | ".join(_escape(name) for name in header) + " |",
        "|" + "|".join(["---"] * len(columns) + ["---:"] * 7) + "|",
    ]
    lines += ["| " + " | ".join(_escape(text) for text in _row(result)) + " |" for result in results]
    return "\n".join(lines) + "\n"


def _row(result: CellResult) -> list[str]:
    labels = [*result.cell.labels.values()]
    params = "-" if result.params is None else f"{result.params:,}"
    if result.refused is not None:
        return [*labels, f"refused: {' '.join(result.refused.split())}", "-", "-", "-", "-", params, "-"]
    if not result.members:
        return [*labels, "not run yet", "-", "-", "-", "-", params, "-"]
    done = len(result.members)
    accuracy = percent(result.mean, result.std)
    if result.mean is None:
        accuracy = "diverged"
    if done < len(result.seeds):
        accuracy += f" ({done} of {len(result.seeds)} seeds run)"
    error = percent(None if result.mean is None else 1 - result.mean, result.std)
    failed = [f"{len(seeds)} of {done}" for seeds in (result.diverged, result.stuck)]
    return [*labels, accuracy, error, str(len(result.accuracies)), *failed, params, f"{result.seconds:.1f}"]


def _escape(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\|<>*`\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", visible(text))


def comma_separated(results: Sequence[CellResult]) -> str:
    """Return the table as CSV: fractions, not percent; empty where there is no number; one column per seed."""
    columns, seeds = [*results[0].cell.labels], results[0].seeds
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            *("id", *columns, "status", "accuracy_mean", "accuracy_std", "error_mean", "error_std", "n"),
            *("diverged", "stuck", "parameters", "seconds", "reason"),
            *(f"accuracy_seed_{seed}" for seed in seeds),
            *(f"diverged_at_seed_{seed}" for seed in seeds),
            *(f"stuck_seed_{seed}" for seed in seeds),
        ]
    )
    for result in results:
        error = None if result.mean is None else 1 - result.mean
        accuracy = {member.seed: member.accuracy for member in result.members}
        counts = (len(result.accuracies), len(result.diverged), len(result.stuck)) if result.members else (None,) * 3
        stuck = {member.seed: member.stuck for member in result.members}
        numbers = (result.mean, result.std, error, result.std, *counts)
        writer.writerow(
            [
                *(result.cell.id, *result.cell.labels.values(), result.status),
                *numbers,
                *(result.params, result.seconds if result.members else None, result.refused),
                *(accuracy.get(seed) for seed in seeds),
                *(result.diverged.get(seed) for seed in seeds),
                *(stuck.get(seed) for seed in seeds),
            ]
        )
    return visible(file.getvalue(), keep="\n\r\t")
