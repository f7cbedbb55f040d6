"""What a run knows about the fields of its examples that the heads of a multi-task network learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_jax.data.records import Source, values_of
from resnet_jax.data.split import Splits
from resnet_jax.errors import UsageError
from resnet_jax.runtime.limits import CLASSES
from resnet_jax.tasks.facts import LabelKind, TargetFacts
from resnet_jax.tasks.heads import LABEL, fields_of_heads, parse_heads

#: Meanings of fields, besides the label, that cannot be learned.
_OTHERS = ("image", LABEL, "box_label")


def targets_of(heads: Sequence[str], splits: Splits, class_names: Sequence[str]) -> dict[str, TargetFacts]:
    """Return what is known about the fields that heads learn, except the label, which a run knows anyway.

    Args:
        heads: ``task.heads``.
        splits: the examples; numbers come from the training split, names from all.
        class_names: class names of the data set, which are those of its masks if they are its labels.

    Raises:
        UsageError: if a head's field does not exist, or cannot be learned.
    """
    if not heads:
        return {}
    spec = splits.train.spec
    fields = fields_of_heads(parse_heads(heads), [name for name in spec if name not in _OTHERS])
    found = {}
    for field in sorted(set(fields.values()) - {LABEL}):
        if spec[field].meaning == "mask":
            found[field] = TargetFacts("segmentation", tuple(class_names) if splits.kind == "segmentation" else ())
            continue
        parts = [_values(part, field) for part in (splits.train, splits.val, splits.test) if part is not None]
        found[field] = facts_of(parts[0], parts, field, _names(splits.train, field))
    return found


def _values(records: Source, field: str) -> np.ndarray:
    values = values_of(records, field)
    if values is None:
        raise UsageError(
            f"field {field} of the examples is not in memory, and task.heads needs its numbers: use a manifest, or "
            "arrays that fit into memory"
        )
    return values


def _names(records: Source, field: str) -> tuple[str, ...]:
    """Return the names of the classes of a field, if the source knows any."""
    while (under := getattr(records, "records", None) or getattr(records, "origin", None)) is not None:
        records = under
    return tuple(getattr(records, "field_names", {}).get(field, ()))


def facts_of(
    train: np.ndarray, parts: Sequence[np.ndarray], field: str, class_names: tuple[str, ...] = ()
) -> TargetFacts:
    """Return what is known about a field.

    Args:
        train: its values in the training examples: integers (N,) for classes, where negative ones are missing; rows of
            0 and 1 (N, K); or numbers (N,), (N, M), where NaN is missing.
        parts: its values in all splits.
        field: its name.
        class_names: names of its classes; classes beyond them, or all if there are none, are named by their numbers.

    Raises:
        UsageError: if values have another shape or type, or there are none in the training examples.

    >>> facts = facts_of(np.array([2, 0, -1]), [np.array([3])], "kind")
    >>> facts.names, facts.counts, facts.examples
    (('0', '1', '2', '3'), (1, 0, 1, 0), 2)
    """
    if train.dtype.kind not in "biuf" or train.ndim not in (1, 2):
        raise UsageError(
            f"field {field} is {train.dtype} {train.shape}: a head learns classes (N,), numbers (N,) or (N, M), or "
            "rows of 0 and 1 (N, K)"
        )
    kind = _kind(parts)
    known = ~np.isnan(train) if train.dtype.kind == "f" else train >= 0
    there = known.reshape(len(train), -1).all(axis=1)
    if not there.any():
        raise UsageError(f"no training example has a {field}")
    values, count = train[there], int(there.sum())
    if kind == "class":
        classes = max(len(class_names), 1 + max(int(part.max(initial=0)) for part in parts))
        if classes > CLASSES.value:
            raise UsageError(f"field {field} has {classes:,} classes, {CLASSES.how}; numbers to predict are floats")
        counts = np.bincount(values.astype(np.int64), minlength=classes)
        names = (*class_names, *(str(k) for k in range(len(class_names), classes)))
        return TargetFacts(kind, names, count, tuple(counts.tolist()))
    width = 1 if train.ndim == 1 else train.shape[1]
    names = (field.removeprefix("value_"),) if train.ndim == 1 else tuple(str(k) for k in range(width))
    if kind == "multi-label":
        return TargetFacts(kind, names, count, tuple(int(number) for number in values.sum(axis=0)))
    wide = values.reshape(count, -1).astype(np.float64)
    std = wide.std(axis=0)
    mean, std = wide.mean(axis=0), np.where(std > 0, std, 1.0)
    return TargetFacts(kind, names, count, (), tuple(mean.tolist()), tuple(std.tolist()))


def _kind(parts: Sequence[np.ndarray]) -> LabelKind:
    if parts[0].ndim == 1:
        return "value" if parts[0].dtype.kind == "f" else "class"
    zeros_and_ones = all(np.isin(part[part == part], (-1, 0, 1)).all() for part in parts)
    return "multi-label" if zeros_and_ones else "value"
