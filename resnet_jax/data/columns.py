"""Which label or target of a data set is which output of a network: matched by name, like classes (`classes`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_jax.data.layout import shortened
from resnet_jax.errors import UsageError, nearest


def match_labels(
    rows: np.ndarray, theirs: Sequence[str], ours: Sequence[str], *, source: str, network: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels of a data set as those of a network, one column for each of its own.

    A label of the network that the data set does not have is assumed to be absent from all examples, which is reported.

    Args:
        rows: zeros and ones (N, K), one column for each of ``theirs``.
        theirs: names of the labels of the data set.
        ours: names of the labels of the network, in the order of its outputs.
        source: the data set, for messages.
        network: the network, for messages.

    Returns:
        float32 (N, len(ours)), and sentences for the user.

    Raises:
        UsageError: if some example has a label that the network does not know.

    >>> match_labels(np.eye(2), ["b", "a"], ["a", "b", "c"], source="x", network="net")[0].tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    strange = [name for column, name in enumerate(theirs) if name not in ours and rows[:, column].any()]
    if strange:
        close = nearest(strange[0], ours)
        hint = f" (nearest: {close!r})" if close else ""
        raise UsageError(
            f"{source} has the labels {shortened(theirs)}, {network} {shortened(ours)}: it does not know "
            f"{shortened(strange)}{hint}. Rename or leave out what it was not trained on"
        )
    found = np.zeros((len(rows), len(ours)), np.float32)
    for column, name in enumerate(ours):
        if name in theirs:
            found[:, column] = rows[:, list(theirs).index(name)]
    missing = [name for name in ours if name not in theirs]
    if not missing:
        return found, _order("labels", theirs, ours)
    return found, (f"labels that {source} does not have, taken to be in none of its examples: {shortened(missing)}",)


def match_targets(
    values: np.ndarray, theirs: Sequence[str], ours: Sequence[str], *, source: str, network: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the values of a data set that a network predicts, one column for each of its targets.

    If both have a single target they are assumed to be the same, whatever their names; a difference is reported.

    Args:
        values: (N,) or (N, M), one column for each of ``theirs``.
        theirs: names of the targets of the data set.
        ours: names of the targets of the network, in the order of its outputs.
        source: the data set, for messages.
        network: the network, for messages.

    Returns:
        float32 (N, len(ours)), and sentences for the user.

    Raises:
        UsageError: if the data set lacks one of them.

    >>> match_targets(np.array([[1.0, 2.0]]), ["y", "x"], ["x"], source="s", network="n")
    (array([[2.]], dtype=float32), ('targets of s that the network does not predict, left out: y',))
    """
    values = values.reshape(len(values), -1).astype(np.float32)
    missing = [name for name in ours if name not in theirs]
    if missing and len(theirs) == len(ours) == 1:
        return values, (f"target {theirs[0]} of {source} is taken for the network's {ours[0]}",)
    if missing:
        close = nearest(missing[0], theirs)
        hint = f" (nearest: {close!r})" if close else ""
        raise UsageError(
            f"{source} has the targets {shortened(theirs)}, {network} predicts {shortened(ours)}: there is no "
            f"{shortened(missing)}{hint}. Name the columns as the network's targets"
        )
    others = [name for name in theirs if name not in ours]
    said = (f"targets of {source} that the network does not predict, left out: {shortened(others)}",) if others else ()
    return values[:, [list(theirs).index(name) for name in ours]], said or _order("targets", theirs, ours)


def _order(what: str, theirs: Sequence[str], ours: Sequence[str]) -> tuple[str, ...]:
    if [name for name in theirs if name in ours] == list(ours):
        return ()
    return (f"{what} matched by name: their order is another one in the network, whose order is used",)
