"""Some of the test examples of a run and what the network says of them, for a picture of both.

For tasks whose predictions are fields that examples have, such as the class of every pixel or boxes
(:meth:`resnet_jax.tasks.task.Task.predicted_fields`).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from resnet_jax.data.records import Records
from resnet_jax.report.example_pairs import NAMES, SAID
from resnet_jax.runs.build import build_eval_step, evaluation_feed
from resnet_jax.runs.job import Job
from resnet_jax.runtime import processes
from resnet_jax.training.compile import compile_eval_step
from resnet_jax.training.placement import shard_batch

#: Examples of the picture at most.
COUNT = 12
#: What a batch has that is no field of an example.
_OWN = ("mask", "index", "epoch", "label")


def predicted_examples(job: Job, variables: Any, records: Records, count: int = COUNT) -> dict[str, np.ndarray]:
    """Return the first examples as the network is given them, and what it says of each.

    Nothing of a task whose predictions are not drawn, and with several processes, each of which has a part.

    Args:
        job: the run.
        variables: of its network.
        records: the test examples.
        count: how many at most.

    Returns:
        Their fields (n, ...), ``names`` of them, and what is said of them under ``said/`` and the name of the field.
    """
    task, card = job.parts.task, job.images.card
    if not getattr(task, "draws_examples", False) or processes.count() > 1:
        return {}
    step = compile_eval_step(build_eval_step(job.config, job.parts.model, card, logits=True), job.parts.placement)
    unreadable = job.images.unreadable_of(records)
    batch = next(iter(evaluation_feed(job.config, records, unreadable=unreadable)))
    rows = np.flatnonzero(batch["mask"])[:count]
    outputs = step(variables, shard_batch(batch, job.parts.placement))["rows"]["logits"]
    said = task.predicted_fields(jax.tree.map(lambda each: np.asarray(each)[rows], outputs))
    sides = batch["image"].shape[1:-1]
    said |= {name: at_sides(values, sides) for name, values in said.items() if card.meanings.get(name) == "mask"}
    fields = {name: np.asarray(values)[rows] for name, values in batch.items() if name not in _OWN}
    names = np.array([records.describe(index) for index in batch["index"][rows].tolist()])
    if (told := getattr(task, "true_captions", None)) is not None:
        fields["caption"] = told(batch)[rows]
    return {**fields, NAMES: names, **{f"{SAID}{name}": np.asarray(values) for name, values in said.items()}}


def at_sides(masks: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """Return masks (n, ...) at the sides of inputs: the nearest position of each pixel.

    >>> at_sides(np.array([[1, 2]], np.uint8), (4,)).tolist()
    [[1, 1, 2, 2]]
    """
    for axis, side in enumerate(sides, start=1):
        have = masks.shape[axis]
        if have != side:
            masks = masks.take((2 * np.arange(side) + 1) * have // (2 * side), axis=axis)
    return masks
