"""A comparison of runs in words and numbers: sentences, a text table, CSV for programs, plain values for JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from resnet_jax.report.canvas import short
from resnet_jax.report.numbers import readable
from resnet_jax.report.text import visible
from resnet_jax.runs.compare import MEASURES, Comparison, Pair, Row, said
from resnet_jax.runs.config import decisive
from resnet_jax.runs.significance import mean_and_std
from resnet_jax.tasks.task import SHARES

#: The maximum number of options with their own column in the text table; more are listed below it.
MOST_COLUMNS = 6
#: The maximum width of a cell of the text table.
LETTERS = 60


def measured(found: Comparison) -> str:
    """Return what is compared: ``test accuracy``."""
    return f"{MEASURES[found.measure]} {found.metric.replace('_', ' ')}"


def scored(mean: float | None, std: float | None, metric: str) -> str:
    """Format a mean and its standard deviation; fractions in percent.

    >>> scored(0.91234, 0.00456, "accuracy"), scored(0.5, None, "r2"), scored(None, None, "r2")
    ('91.23 ± 0.46 %', '0.5', '-')
    """
    if mean is None:
        return "-"
    if metric in SHARES:
        return f"{100 * mean:.2f}" + (" %" if std is None else f" ± {100 * std:.2f} %")
    return f"{mean:.4g}" + ("" if std is None else f" ± {std:.2g}")


def sentence(pair: Pair, metric: str, measure: str) -> str:
    """Describe how two rows differ, and whether that is more than seeds do."""
    first, second = pair.first, pair.second
    (one, _, n), (other, _, m) = first.score(measure), second.score(measure)
    if one is None or other is None:
        which = " and ".join(row.label for row, score in ((first, one), (second, other)) if score is None)
        return f"{first.label} and {second.label}: nothing to compare, {which} has no {MEASURES[measure]} value"
    factor = 100.0 if metric in SHARES else 1.0
    unit = " points" if metric in SHARES else ""
    sign = -1.0 if one < other else 1.0
    upper, lower = (second.label, first.label) if one < other else (first.label, second.label)
    n, m = (m, n) if one < other else (n, m)

    def number(value: float) -> str:
        return f"{factor * value:.2f}" if metric in SHARES else f"{value:.4g}"

    begins = f"{upper} is {number(abs(one - other))}{unit} above {lower}"
    if one == other:
        begins = f"{first.label} and {second.label} have the same mean"
    found = pair.difference
    if found is None:
        return f"{begins}: no test, it takes 2 seeds of each at least, and there {_counted(n, m)}"
    how = f"{n} seeds paired" if found.how == "paired" else f"{n} and {m} seeds, not the same (Welch)"
    if found.spreadless:
        return f"{begins}, {how}: no test, the values do not vary over seeds"
    low, high = sorted((sign * found.low, sign * found.high))
    ends = "distinguishable" if found.distinguishable else "not distinguishable"
    return f"{begins}, 95 % interval {number(low)} to {number(high)}, {how}, p = {found.p:.2g}: {ends}"


def _counted(n: int, m: int) -> str:
    """Return how many seeds two rows have.

    >>> _counted(1, 1), _counted(1, 3)
    ('is 1 of each', 'are 1 and 3')
    """
    return f"is {n} of each" if n == m else f"are {n} and {m}"


def sentences(found: Comparison) -> list[str]:
    """Return a sentence for each pair of rows."""
    return [sentence(pair, found.metric, found.measure) for pair in found.pairs]


def columns(found: Comparison, *, most: int | None = None) -> dict[str, list[str]]:
    """Return the table, column by column, one value per row.

    Args:
        found: the runs.
        most: the maximum number of option columns; if there are more, there are none (default: all are shown).
    """
    rows, metric = found.rows, found.metric
    name = metric.replace("_", " ")
    shown: list[str] = [*rows[0].options]
    if most is not None and (found.labelled or len(shown) > most):
        shown = []
    table = {"what": [row.label for row in rows]}
    table |= {option: [said(row.options[option]) for row in rows] for option in shown}
    table["runs"] = [str(len(row.runs)) for row in rows]
    table["seeds"] = [_listed(str(run.config.seed) for run in row.runs) for row in rows]
    table["steps"] = [_listed(f"{run.steps:,}" for run in row.runs) for row in rows]
    table["epochs"] = [_listed("-" if run.epochs is None else f"{run.epochs:.4g}" for run in row.runs) for row in rows]
    for measure, said_measure in MEASURES.items():
        scores = [row.score(measure) for row in rows]
        table[f"{said_measure} {name}"] = [
            scored(mean, std, metric) + (f" (n {n})" if len(row.runs) > 1 else "")
            for row, (mean, std, n) in zip(rows, scores, strict=True)
        ]
    table["images/s"] = [_mean([run.speed for run in row.runs], readable) for row in rows]
    table["parameters"] = [_listed(f"{run.params:,}" for run in row.runs) for row in rows]
    table["state"] = [_states(row) for row in rows]
    return table


def _listed(values: Iterable[str]) -> str:
    """Return distinct values, each once."""
    return " ".join(dict.fromkeys(values))


def _mean(values: Sequence[float | None], say: Callable[[float], str]) -> str:
    known = [value for value in values if value]
    return say(float(np.mean(known))) if known else "-"


def _states(row: Row) -> str:
    """Return the progress of a row's runs: ``2 done, 1 unfinished``."""
    states = [run.state for run in row.runs]
    if len(set(states)) == 1:
        return states[0]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def lines(found: Comparison) -> list[str]:
    """Return the comparison for a terminal: the table, further differences, sentences, notes."""
    table = columns(found, most=MOST_COLUMNS)
    texts = [
        [short(visible(name), LETTERS), *(short(visible(text), LETTERS) for text in values)]
        for name, values in table.items()
    ]
    widths = [max(map(len, column)) for column in texts]
    cells = zip(*texts, strict=True)
    made = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    if not found.labelled and len(found.rows[0].options) > MOST_COLUMNS:
        made += ["", "What differs:"]
        for option in found.rows[0].options:
            each = "; ".join(f"{row.label}: {said(row.options[option])}" for row in found.rows)
            made.append(f"  {option}: {visible(each)}")
    pooled = [name for name in found.differing if name not in found.rows[0].options]
    if pooled:
        made += ["", f"Rows hold several values of {', '.join(pooled)}."]
    told = sentences(found)
    made += ["", f"In {measured(found)}:", *(f"  {text}." for text in told)] if told else []
    return made + ([""] if found.notes else []) + [f"Note: {note}." for note in found.notes]


def runs_csv(found: Comparison) -> str:
    """Return a line per run: fractions, not percent; empty where there is no number."""
    head = ["run", "row", *found.differing, "recipe", "seed", "state", "steps", "epochs"]
    head += [f"test_{found.metric}", f"best_val_{found.metric}", "images_per_second", "parameters"]
    table = []
    for row in found.rows:
        for run in row.runs:
            options = decisive(run.config)
            numbers = (run.steps, run.epochs, run.test, run.best, run.speed, run.params)
            values = [said(options[name]) for name in found.differing]
            table.append([run.path, row.label, *values, run.config.recipe, run.config.seed, run.state, *numbers])
    return _csv(head, table)


def curves_csv(found: Comparison) -> str:
    """Return a line per value of a curve: run, row, seed, kind, step, value (empty if not finite)."""
    table = [
        [run.path, row.label, run.config.seed, what, step, value if math.isfinite(value) else None]
        for row in found.rows
        for run in row.runs
        for what, points in (("training_loss", run.training), (f"val_{found.metric}", run.validation))
        for step, value in points
    ]
    return _csv(["run", "row", "seed", "what", "step", "value"], table)


def _csv(head: Sequence[str], table: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(table)
    return visible(file.getvalue(), keep="\n\r\t")


def as_json(found: Comparison) -> dict[str, Any]:
    """Return what the command line prints with ``--json``."""
    rows = []
    for row in found.rows:
        scores = {
            measure: dict(zip(("mean", "std", "n"), row.score(measure), strict=True)) for measure in ("test", "best")
        }
        runs = [
            {
                "run": str(run.path),
                "recipe": run.config.recipe,
                "seed": run.config.seed,
                "state": run.state,
                "steps": run.steps,
                "epochs": run.epochs,
                "test": run.test,
                "best_val": run.best,
                "images_per_second": run.speed,
                "params": run.params,
            }
            for run in row.runs
        ]
        speed = mean_and_std([run.speed for run in row.runs if run.speed])[0]
        scored_row = {"test": scores["test"], "best_val": scores["best"], "images_per_second": speed}
        rows.append({"label": row.label, "options": dict(row.options), **scored_row, "runs": runs})
    return {
        "metric": found.metric,
        "compared": "best_val" if found.measure == "best" else found.measure,
        "differing": list(found.differing),
        "rows": rows,
        "differences": [_pair_json(pair, text) for pair, text in zip(found.pairs, sentences(found), strict=True)],
        "notes": list(found.notes),
    }


def _pair_json(pair: Pair, text: str) -> dict[str, Any]:
    found = pair.difference
    row: dict[str, Any] = {"first": pair.first.label, "second": pair.second.label, "sentence": text}
    if found is None:
        return {**row, "how": None}
    return {
        **row,
        "how": found.how,
        "seeds": list(found.seeds),
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "p": None if found.spreadless else found.p,
        "degrees_of_freedom": found.freedom,
        "distinguishable": None if found.spreadless else found.distinguishable,
    }
