"""Several runs side by side: which differ only in their seed, and which differ by more than seeds do."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import UsageError, unknown
from resnet_jax.runs.compared_run import Run, read_run
from resnet_jax.runs.config import decisive
from resnet_jax.runs.significance import Difference, mean_and_std, paired, welch
from resnet_jax.runtime.paths import user_path

#: Options that do not distinguish configurations: their name, and what is averaged over.
APART = ("recipe", "seed")
#: Up to this many rows, each is compared with each; with more, each is compared with the first.
MOST_ROWS = 6
#: The maximum length of a label made of options; beyond it, rows are named after their directories.
MOST_LETTERS = 60

#: What is compared: the field of :class:`Run`, and its description.
MEASURES = {"test": "test", "best": "best validation"}


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs of one configuration.

    Attributes:
        label: its unique name.
        options: the options in which rows differ, with their values here.
        runs: its runs, in the order given.
        keys: for each run, what it is paired by: its seed, and other differing options that do not define rows.
    """

    label: str
    options: Mapping[str, Any]
    runs: tuple[Run, ...]
    keys: tuple[tuple[str, ...], ...]

    def values(self, measure: str) -> dict[tuple[str, ...], float]:
        """Return a measure by pairing key; the mean over runs with the same key."""
        found: dict[tuple[str, ...], list[float]] = {}
        for key, run in zip(self.keys, self.runs, strict=True):
            value = getattr(run, measure)
            if value is not None:
                found.setdefault(key, []).append(float(value))
        return {key: float(np.mean(each)) for key, each in found.items()}

    def score(self, measure: str) -> tuple[float | None, float | None, int]:
        """Return mean and standard deviation of a measure over seeds, and the number of seeds."""
        values = [*self.values(measure).values()]
        return *mean_and_std(values), len(values)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two rows and the difference between them; None if there are too few seeds to test it."""

    first: Row
    second: Row
    difference: Difference | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        metric: name of the metric.
        measure: which of its values is compared, from :data:`MEASURES`.
        rows: configurations, in the order of their first runs.
        differing: options in which the runs differ, except seeds.
        pairs: the compared rows.
        notes: what a reader needs to know.
        labelled: whether the labels of rows already contain their options.
    """

    metric: str
    measure: str
    rows: tuple[Row, ...]
    differing: tuple[str, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    labelled: bool

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for row in self.rows for run in row.runs]


def compare_runs(paths: Sequence[Path], *, metric: str | None = None, group_by: Sequence[str] = ()) -> Comparison:
    """Read run directories and compare them.

    Args:
        paths: the directories; one named twice counts once.
        metric: the metric to compare (default: the task's headline metric).
        group_by: options whose values define rows; other options may differ within a row (default: all that differ).

    Raises:
        UsageError: if a path is not a run directory or belongs to an ablation, tasks differ, a run lacks the metric, or
            an option does not exist.
        DamagedError: if a file of a run was changed or damaged and cannot be repaired.
    """
    if not paths:
        raise UsageError("name the run directories to compare, such as runs/digits runs/digits-1a2b3c4d")
    once = {user_path(path).resolve(): path for path in reversed(paths)}
    counted: dict[Any, int] = {}
    runs = [read_run(path, metric, counted) for path in reversed(once.values())]
    _require_one_task(runs)
    notes = (
        [f"{len(paths) - len(once)} of the {len(paths)} directories named are others again, and count once"]
        if len(once) < len(paths)
        else []
    )
    options = [decisive(run.config) for run in runs]
    differing = tuple(
        key for key in options[0] if key not in APART and any(each[key] != options[0][key] for each in options)
    )
    wanted = tuple(name.replace("-", "_") for name in group_by)
    for name in wanted:
        if name not in options[0] or name in APART:
            raise unknown("option to group by", name, [key for key in options[0] if key not in APART])
    notes += [f"all runs have the same {name}" for name in wanted if name not in differing]
    rows, labelled = group(runs, differing, wanted or differing)
    measure = "test" if any(run.test is not None for run in runs) or all(run.best is None for run in runs) else "best"
    if measure == "best":
        notes.append("no run is finished and tested: what is compared is the best validation value of each")
    pairs = tuple(Pair(*two, difference(*two, measure)) for two in _twos(rows))
    notes += _notes(rows, measure, pairs)
    return Comparison(runs[0].metric, measure, rows, differing, pairs, tuple(notes), labelled)


def _require_one_task(runs: Sequence[Run]) -> None:
    """Reject runs whose numbers mean different things."""
    kinds: dict[str, list[str]] = {}
    for run in runs:
        kinds.setdefault(f"{run.task}, {run.metric.replace('_', ' ')}", []).append(str(run.path))
    if len(kinds) > 1:
        each = "\n  ".join(f"{kind}: {', '.join(paths)}" for kind, paths in kinds.items())
        raise UsageError(f"these runs are of different tasks, compare each kind by itself:\n  {each}")


def group(runs: Sequence[Run], differing: Sequence[str], by: Sequence[str]) -> tuple[tuple[Row, ...], bool]:
    """Group runs into rows with the same values of the options ``by``.

    Args:
        runs: at least one.
        differing: options in which they differ, except seeds.
        by: options that define rows.

    Returns:
        The rows, and whether their labels contain their options.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(_key(run, by), []).append(run)
    shown = [name for name in by if name in differing]
    options = [{name: decisive(each[0].config)[name] for name in shown} for each in found.values()]
    labels, labelled = _labels([*found.values()], options)
    rest = [name for name in differing if name not in by]
    rows = tuple(
        Row(label, values, tuple(each), tuple((str(run.config.seed), _key(run, rest)) for run in each))
        for label, values, each in zip(labels, options, found.values(), strict=True)
    )
    return rows, labelled


def _key(run: Run, names: Sequence[str]) -> str:
    values = decisive(run.config)
    return json.dumps([values[name] for name in names], default=str)


def _labels(groups: Sequence[Sequence[Run]], options: Sequence[Mapping[str, Any]]) -> tuple[list[str], bool]:
    """Return a name for each row, and whether the names contain the options, as opposed to recipes or directories."""
    last = {name: name.rpartition(".")[2] for name in options[0]}
    unique = len(set(last.values())) == len(last)
    texts = [
        ", ".join(f"{last[name] if unique else name} {said(value)}" for name, value in each.items()) for each in options
    ]
    if all(0 < len(text) <= MOST_LETTERS for text in texts):
        return texts, True
    recipes = [each[0].config.recipe for each in groups]
    if len(set(recipes)) == len(recipes):
        return recipes, False
    names = [each[0].path.name or str(each[0].path) for each in groups]
    if len(set(names)) < len(names):
        names = [str(each[0].path) for each in groups]
    return names, False


def said(value: Any) -> str:
    """Return the value of an option as text; a dash if it is unset.

    >>> said(0.1), said(None), said([1, 2])
    ('0.1', '-', '1 2')
    """
    if isinstance(value, (list, tuple)):
        return " ".join(map(said, value)) or "-"
    return "-" if value is None else str(value)


def _twos(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    if len(rows) <= MOST_ROWS:
        return [*itertools.combinations(rows, 2)]
    return [(row, rows[0]) for row in rows[1:]]


def difference(first: Row, second: Row, measure: str) -> Difference | None:
    """Compare two rows: paired if their seeds match, otherwise by Welch's test; None with fewer than two seeds."""
    one, other = first.values(measure), second.values(measure)
    if min(len(one), len(other)) < 2:
        return None
    if one.keys() == other.keys():
        return paired([*one.values()], [other[key] for key in one])
    return welch([*one.values()], [*other.values()])


def _notes(rows: Sequence[Row], measure: str, pairs: Sequence[Pair]) -> list[str]:
    notes = []
    for row in rows:
        without = [run for run in row.runs if getattr(run, measure) is None]
        if without:
            reason = "unfinished" if all(run.finished is None for run in without) else "without a number"
            verb = "is" if len(without) == 1 else "are"
            notes.append(f"{len(without)} of {len(row.runs)} runs of {row.label} {verb} {reason} and not in its mean")
        stuck = sum(run.stuck for run in row.runs)
        if stuck:
            notes.append(f"{stuck} of {len(row.runs)} runs of {row.label} ended no better than chance; they count")
        if len(set(row.keys)) < len(row.keys):
            notes.append(f"{row.label} has runs of the same seed and options: their mean counts as one")
    runs = [run for row in rows for run in row.runs]
    tests = {(run.card.examples.get("test"), run.card.labels, run.card.members) for run in runs}
    if len(tests) > 1:
        notes.append("the runs do not all have the same data (data.json): their tests are of different images")
    tested = sum(pair.difference is not None for pair in pairs)
    if len(rows) > MOST_ROWS:
        notes.append(f"of more than {MOST_ROWS} rows each is compared with the first, {rows[0].label}, only")
    if tested > 1:
        notes.append(f"{tested} differences are tested, each at 95 %: of 20 pairs that do not differ, one appears to")
    return notes
