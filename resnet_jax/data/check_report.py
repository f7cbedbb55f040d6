"""The findings of a data set check: numbers, sentences, and whether it passed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 10
"""Maximum number of file names in a sentence."""
LISTED = 1_000
"""Maximum number of file names in the JSON."""
IMBALANCE = 10.0
"""Ratio of the most frequent to the rarest class from which imbalance is reported."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Examples that are identical or nearly so.

    Attributes:
        examples: their descriptions.
        splits: their splits.
        classes: names of their classes; empty if examples have none.
        distance: number of bits in which the hashes of a near pair differ; None for equal inputs.
    """

    examples: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...] = ()
    distance: int | None = None

    @property
    def across(self) -> bool:
        """Whether they are from several splits."""
        return len(set(self.splits)) > 1

    @property
    def conflict(self) -> bool:
        """Whether they are from several classes."""
        return len(set(self.classes)) > 1

    def __str__(self) -> str:
        """Return each with its split and class."""
        tails = [f"{split}, {name}" for split, name in zip(self.splits, self.classes, strict=False)] or self.splits
        named = [f"{example} ({tail})" for example, tail in zip(self.examples, tails, strict=True)]
        more = f" and {len(named) - 4:,} more" if len(named) > 4 else ""
        if self.distance is None:
            return " = ".join(named[:4]) + more
        return f"{' ~ '.join(named)}, {self.distance} bit{'s' * (self.distance != 1)} apart"


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """All findings.

    Attributes:
        source: what was checked.
        kind: what the labels are.
        class_names: class names in label order.
        examples: split -> number of examples.
        counts: split -> number of examples (pixels, boxes) of each class.
        counted: what is counted there.
        shapes: (height, width, channels) and so on -> number of examples.
        dtypes: dtype of inputs -> number of examples.
        modes: storage format of image files -> number of files.
        unreadable: (split, example, reason).
        same: groups of equal inputs.
        near: pairs of nearly equal images.
        looked_for_near: whether near duplicates were searched for.
        mean: mean per channel over the training examples, of x / 255 for uint8.
        std: standard deviation per channel.
        facts: sentences on boxes, masks, lengths, values.
        details: the same as numbers.
        notes: notes of the source.
        seconds: time it took.
    """

    source: str
    kind: str
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    counts: Mapping[str, Sequence[int]]
    counted: str
    shapes: Counter[tuple[int, ...]]
    dtypes: Counter[str]
    modes: Counter[str]
    unreadable: tuple[tuple[str, str, str], ...]
    same: tuple[Group, ...]
    near: tuple[Group, ...]
    looked_for_near: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    facts: tuple[str, ...]
    details: Mapping[str, Any]
    notes: tuple[str, ...]
    seconds: float

    @property
    def leaks(self) -> tuple[Group, ...]:
        """Groups of equal inputs in several splits."""
        return tuple(group for group in self.same if group.across)

    @property
    def near_leaks(self) -> tuple[Group, ...]:
        """Pairs of nearly equal images in two splits."""
        return tuple(group for group in self.near if group.across)

    @property
    def conflicts(self) -> tuple[Group, ...]:
        """Groups of equal inputs with different labels."""
        return tuple(group for group in self.same if group.conflict)

    @property
    def imbalance(self) -> float | None:
        """Ratio of the most frequent to the rarest non-empty class over all splits; None without classes."""
        if not self.counts:
            return None
        total = [sum(column) for column in zip(*self.counts.values(), strict=True)]
        given = [count for count in total if count]
        return max(given) / min(given) if given else None

    def problems(self, *, strict: bool = False) -> tuple[str, ...]:
        """Return why the check did not pass; empty if it did.

        Args:
            strict: whether near duplicates across splits and equal inputs with different labels also count.
        """
        found = []
        if self.unreadable:
            found.append(f"{len(self.unreadable):,} of {sum(self.examples.values()):,} examples cannot be read")
        if self.leaks:
            found.append(f"{len(self.leaks):,} inputs are in two splits or more, exactly the same")
        if strict and self.conflicts:
            found.append(f"{len(self.conflicts):,} inputs are there several times with different labels")
        if strict and self.near_leaks:
            found.append(f"{len(self.near_leaks):,} pairs of nearly the same images lie in two splits")
        return tuple(found)

    def to_dict(self, *, strict: bool = False) -> dict[str, Any]:
        """Return the report for JSON; lists of files are truncated at :data:`LISTED`."""
        ordered = {name: getattr(self, name) for name in ("shapes", "dtypes", "modes")}

        def groups(found: Sequence[Group]) -> list[dict[str, Any]]:
            return [dataclasses.asdict(group) for group in found[:LISTED]]

        return {
            "ok": not self.problems(strict=strict),
            "problems": list(self.problems(strict=strict)),
            "source": self.source,
            "kind": self.kind,
            "class_names": list(self.class_names),
            "examples": dict(self.examples),
            "counted": self.counted,
            "counts": {split: [int(count) for count in counts] for split, counts in self.counts.items()},
            "imbalance": self.imbalance,
            "shapes": [[list(shape), count] for shape, count in ordered["shapes"].most_common(LISTED)],
            "dtypes": dict(ordered["dtypes"]),
            "modes": dict(ordered["modes"].most_common()),
            "mean": list(self.mean),
            "std": list(self.std),
            "unreadable": {"count": len(self.unreadable), "listed": [list(one) for one in self.unreadable[:LISTED]]},
            "same": {"count": len(self.same), "across_splits": len(self.leaks), "listed": groups(self.same)},
            "near": {
                "looked_for": self.looked_for_near,
                "count": len(self.near),
                "across_splits": len(self.near_leaks),
                "listed": groups(self.near),
            },
            "label_conflicts": len(self.conflicts),
            **self.details,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }
