"""The results of fine-tuning: before and after, over seeds, and whether it beats the linear probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_jax.runs.significance import Difference, mean_and_std, paired

BEFORE, PROBE, HEAD, ALL, SCRATCH = "before", "probe", "head", "all", "scratch"
"""The rows, in order."""
NAMES = {
    BEFORE: "before",
    PROBE: "linear probe",
    HEAD: "classifier alone",
    ALL: "whole network",
    SCRATCH: "from scratch",
}
HEADER = ("stage", "test accuracy", "std", "seeds", "validation", "updates", "seconds", "what")


@dataclasses.dataclass(frozen=True)
class Row:
    """One stage.

    Attributes:
        stage: a key of :data:`NAMES`.
        accuracy: accuracies on the test split, one per seed; a single one for a stage without seeds.
        what: how it was obtained.
        val: best validation accuracies, one per seed; None where there are none.
        updates: updates per seed in this stage; 0 without training.
        seconds: time over all seeds.
    """

    stage: str
    accuracy: tuple[float, ...]
    what: str
    val: tuple[float | None, ...] = ()
    updates: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        mean, std = mean_and_std(self.accuracy)
        return {**dataclasses.asdict(self), "mean": mean, "std": std}


@dataclasses.dataclass(frozen=True)
class Margin:
    """How much better the result is than another stage.

    Attributes:
        over: the other stage.
        mean: mean accuracy difference over seeds.
        seeds: number of pairs with the same seed.
        difference: its interval, paired by seed; None for one seed.
    """

    over: str
    mean: float
    seeds: int
    difference: Difference | None

    @property
    def sure(self) -> bool | None:
        """Whether the interval excludes 0; None if there are too few seeds to tell."""
        return None if self.difference is None or self.difference.spreadless else self.difference.distinguishable

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        found = self.difference
        interval = None if found is None else [found.low, found.high]
        return {"over": self.over, "mean": self.mean, "seeds": self.seeds, "interval": interval, "sure": self.sure}

    def said(self) -> str:
        """Return it as a clause."""
        points = 100 * self.mean
        way = f"{points:+.2f} points over {NAMES[self.over]}"
        if self.difference is None:
            return f"{way} (one seed)"
        if self.difference.spreadless:
            return f"{way} ({self.seeds} seeds, all alike)"
        low, high = 100 * self.difference.low, 100 * self.difference.high
        return f"{way} (95 % interval {low:+.2f} to {high:+.2f}, {self.seeds} seeds)"


@dataclasses.dataclass(frozen=True)
class Table:
    """All stages.

    Attributes:
        title: network and data.
        rows: rows in the order of the stages.
        test_examples: number of images in the test split.
        notes: what a reader needs to know.
    """

    title: str
    rows: tuple[Row, ...]
    test_examples: int
    notes: tuple[str, ...] = ()

    @property
    def result(self) -> Row:
        """The last stage of fine-tuning."""
        return next(row for stage in (ALL, HEAD) for row in self.rows if row.stage == stage)

    def margins(self) -> tuple[Margin, ...]:
        """Return how much better the result is than every other stage."""
        ours = self.result.accuracy
        found = []
        for row in self.rows:
            if row.stage == self.result.stage:
                continue
            theirs = row.accuracy if len(row.accuracy) > 1 else row.accuracy * len(ours)
            both = min(len(ours), len(theirs))
            mean = sum(a - b for a, b in zip(ours, theirs, strict=False)) / both
            pairs = paired(ours[:both], theirs[:both]) if both > 1 else None
            found.append(Margin(row.stage, mean, both, pairs))
        return tuple(found)

    def verdict(self) -> str:
        """Return a sentence on whether fine-tuning was worth it."""
        margin = next(one for one in self.margins() if one.over == PROBE)
        did = "training the classifier" if self.result.stage == HEAD else "fine-tuning"
        if margin.mean <= 0:
            return f"{did.capitalize()} does NOT beat the linear probe: {margin.said()}."
        if margin.sure is False:
            return f"{did.capitalize()} is not distinguishable from the linear probe: {margin.said()}."
        return f"{did.capitalize()} beats the linear probe: {margin.said()}."

    def cells(self) -> list[tuple[str, ...]]:
        """Return the table as texts, the header first."""
        return [HEADER, *(_cells(row) for row in self.rows)]

    def markdown(self) -> str:
        """Return the contents of table.md."""
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self.cells()]
        lines.insert(1, "|" + "---|" * len(HEADER))
        margins = [f"- {margin.said()}" for margin in self.margins()]
        said = [f"Accuracy on the {self.test_examples:,} test images, which no decision used.", *self.notes]
        return "\n\n".join(
            [f"# {self.title}", "\n".join(lines), self.verdict(), "\n".join(margins), "\n".join(said)]
        ) + "\n"  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        margins = self.margins()
        return {
            "title": self.title,
            "test_examples": self.test_examples,
            "rows": [row.to_json() for row in self.rows],
            "margins": [margin.to_json() for margin in margins],
            "beats_probe": next(one.mean for one in margins if one.over == PROBE) > 0,
            "verdict": self.verdict(),
            "notes": list(self.notes),
        }


def _cells(row: Row) -> tuple[str, ...]:
    mean, std = mean_and_std(row.accuracy)
    val = mean_and_std([value for value in row.val if value is not None])[0]
    return (
        NAMES[row.stage],
        "" if mean is None else f"{100 * mean:.2f} %",
        "" if std is None else f"{100 * std:.2f}",
        f"{len(row.accuracy)}" if row.updates else "",
        "" if val is None else f"{100 * val:.2f} %",
        f"{row.updates:,}" if row.updates else "",
        f"{row.seconds:.0f}" if row.seconds else "",
        row.what,
    )


def table_of(rows: Sequence[Row], **about: Any) -> Table:
    """Return the table of rows in the order of the stages."""
    order = list(NAMES)
    return Table(rows=tuple(sorted(rows, key=lambda row: order.index(row.stage))), **about)


def row_of_json(stage: str, stored: Mapping[str, Any]) -> Row:
    """Return a stored row of a stage without seeds."""
    return Row(stage, (float(stored["accuracy"]),), str(stored["what"]), seconds=float(stored.get("seconds", 0.0)))
