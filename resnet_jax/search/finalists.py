"""The finalists of a search: the best trials, trained again with other seeds.

With one seed and few validation images, the best of many trials is the luckiest of the good ones. Therefore a few of
the best are trained again, all with the same two seeds, as lanes of the existing program; the best mean wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from resnet_jax.runs.carried import values_of
from resnet_jax.runs.lanes import Lanes
from resnet_jax.search.groups import Groups, key_of
from resnet_jax.search.halving import Mode
from resnet_jax.search.result import scored
from resnet_jax.search.study import Study, Trial
from resnet_jax.training.interrupt import Interrupted, StopRequest

#: Seeds for finalists besides their own; a search does not draw them unless it is told to.
SEEDS = (2000, 2001)
#: Number of updates between checks for a stop request.
CALL = 64


def waves_of(finalists: int, lanes: int) -> int:
    """Return how many full-length trainings the finalists need.

    >>> waves_of(4, 8), waves_of(5, 8), waves_of(1, 8)
    (1, 2, 0)
    """
    return -(-finalists * len(SEEDS) // lanes) if finalists > 1 else 0


def choose_finalists(trials: Sequence[Trial], mode: Mode, count: int) -> list[Trial]:
    """Return the best full-length trials; empty if there are fewer than two or ``count`` is below two."""
    complete = sorted((one for one in trials if one.state == "complete"), key=lambda one: one.place(mode))
    return complete[:count] if min(count, len(complete)) > 1 else []


def repeat_finalists(
    study: Study,
    groups: Groups,
    programs: dict[str, Lanes],
    finalists: Sequence[Trial],
    lanes: int,
    stop: StopRequest,
    say: Callable[[str], None],
) -> None:
    """Train finalists with the seeds that they lack, and record the results in the study.

    Args:
        study: study of the search.
        groups: makes configurations of trials.
        programs: programs by static choices; missing ones are built.
        finalists: from :func:`choose_finalists`.
        lanes: number of lanes per program.
        stop: returns whether to stop.
        say: prints a line.

    Raises:
        Interrupted: if a signal asked to stop; the same command trains again what was not measured.
    """
    by_key: dict[str, list[Trial]] = {}
    for one in finalists:
        by_key.setdefault(key_of(groups.static_of(one)), []).append(one)
    if any(seed not in one.repeats for one in finalists for seed in SEEDS):
        said = " and ".join(map(str, SEEDS))
        say(f"training the best {len(finalists)} again, with seeds {said}")
    for key, trials in by_key.items():
        runs = [(one, seed) for one in trials for seed in SEEDS if seed not in one.repeats]
        for first in range(0, len(runs), lanes):
            part = runs[first : first + lanes]
            for (one, seed), (value, loss) in zip(
                part, _trained(groups, programs, key, part, lanes, stop), strict=True
            ):
                study.repeat(one.number, seed, value, loss)
    numbers = {one.number for one in finalists}
    for one in study.trials():
        if one.number in numbers:
            values = ", ".join(scored(value, groups.task.headline) for value, _ in one.repeats.values())
            mean = scored(one.mean, groups.task.headline)
            say(f"finalist {one.number}: val {scored(one.value, groups.task.headline)}, {values}: mean {mean}")


def _trained(
    groups: Groups,
    programs: dict[str, Lanes],
    key: str,
    runs: Sequence[tuple[Trial, int]],
    lanes: int,
    stop: StopRequest,
) -> list[tuple[float, float]]:
    """Train runs with the same static choices side by side; return metric and loss, NaN for one that diverged."""
    group = groups.group(groups.static_of(runs[0][0]))
    if key not in programs:
        programs[key] = groups.program(group)
    program, records = programs[key], group.images.splits.val
    assert records is not None  # trials are compared on them
    padded = [*runs, *[runs[-1]] * (lanes - len(runs))]
    values: Mapping[str, np.ndarray] = values_of([groups.config(one) for one, _ in padded], program.names)
    seeds, length, made = [seed for _, seed in padded], group.rungs[-1].updates, 0
    states, rejected = program.new_states(seeds), np.zeros(lanes)
    while made < length:
        if stop:
            raise Interrupted(made, stop)
        count = min(CALL, length - made)
        states, metrics = program.advance(states, values, seeds, [made] * lanes, count)
        rejected, made = rejected + metrics["rejected"].sum(axis=0), made + count
    found = program.evaluate(states, records)
    return [
        (float("nan"), float("nan"))
        if lost > group.config.train.max_rejected
        else (float(one.metrics[groups.task.headline]), float(one.loss))
        for one, lost in zip(found[: len(runs)], rejected, strict=False)
    ]
