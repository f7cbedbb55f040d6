"""The results of a search: tables for people and programs, and the object that ``--json`` prints."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from resnet_jax.search.halving import Mode
from resnet_jax.search.study import Trial
from resnet_jax.tasks.task import SHARES

#: Names of the states in the table.
SAID = {"running": "unfinished"}


def scored(value: float | None, headline: str) -> str:
    """Format a metric: fractions in percent, others as numbers.

    >>> scored(0.98611, "accuracy"), scored(1.25, "loss"), scored(None, "loss")
    ('98.61 %', '1.25', '-')
    """
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if headline in SHARES else f"{value:.4g}"


def short(value: Any) -> str:
    """Format the value of an option.

    >>> short(0.0123456), short([1, 2]), short(None), short("batch")
    ('0.01235', '[1, 2]', 'none', 'batch')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings(trial: Trial) -> str:
    """Format the values of a trial in one line."""
    return ", ".join(f"{option} {short(value)}" for option, value in trial.values.items())


def in_order(trials: Sequence[Trial], mode: Mode) -> list[Trial]:
    """Return trials sorted by :meth:`~resnet_jax.search.study.Trial.place`, those without a metric last."""
    return sorted(trials, key=lambda one: one.place(mode))


def comma_separated(trials: Sequence[Trial], options: Sequence[str], headline: str) -> str:
    """Return the trials as CSV, by number: full precision, and the last measurement."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *options, "seed", "updates", f"val_{headline}", "val_loss", "repeats", "state", "reason"])
    for one in trials:
        values = ["" if one.values.get(option) is None else one.values[option] for option in options]
        value = "" if not one.measured else repr(float(one.measured[one.share]))
        loss = repr(one.loss) if math.isfinite(one.loss) else ""
        state = SAID.get(one.state, one.state)
        repeats = " ".join(f"{seed}:{repeated!r}" for seed, (repeated, _) in one.repeats.items())
        writer.writerow([one.number, *values, one.seed, one.updates, value, loss, repeats, state, one.reason])
    return text.getvalue()


def markdown(trials: Sequence[Trial], options: Sequence[str], headline: str, mode: Mode, title: str) -> str:
    """Return the trials as a table, best first."""
    name = headline.replace("_", " ")
    header = ["trial", *options, "seed", "updates", f"val {name}", "state"]
    lines = [
        f"# {_escape(title)}",
        "",
        f"Best first: the trials that were trained longest, sorted by the {name} on validation images after the given "
        "number of updates, and then by the validation loss. The test images were not used.",
        "",
        "| " + " | ".join(_escape(one) for one in header) + " |",
        "|" + "---:|" * len(header),
    ]
    for one in in_order(trials, mode):
        state = SAID.get(one.state, one.state) + (f": {one.reason}" if one.reason else "")
        value = scored(one.measured[one.share] if one.measured else None, headline)
        cells = [str(one.number), *(short(one.values.get(option)) for option in options)]
        cells += [str(one.seed), f"{one.updates:,}", value, state]
        lines.append("| " + " | ".join(_escape(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def counted(trials: Sequence[Trial]) -> dict[str, int]:
    """Return the number of trials in each state."""
    names = ("complete", "stopped", "diverged", "failed", "running")
    counts = {name: sum(one.state == name for one in trials) for name in names}
    return {SAID.get(name, name): count for name, count in counts.items()}


def as_json(trial: Trial | None, headline: str) -> dict[str, Any] | None:
    """Return a trial for programs."""
    if trial is None:
        return None
    return {
        "trial": trial.number,
        "values": dict(trial.values),
        "seed": trial.seed,
        "updates": trial.updates,
        f"val_{headline}": trial.value,
        f"mean_val_{headline}": trial.mean,
        "repeats": {str(seed): value for seed, (value, _) in trial.repeats.items()},
        "state": SAID.get(trial.state, trial.state),
    }


def _escape(text: str) -> str:
    from resnet_jax.report.text import visible

    return visible(text).replace("|", r"\|")
