"""Some test examples of a run and the network's predictions for them, for a figure of both.

This is for tasks whose predictions are fields of examples, such as pixel classes or boxes
(:meth:`resnet_jax.tasks.task.Task.predicted_fields`); and for inputs that are not ordinary images, such as signals,
volumes and multi-band images, under which labels and predictions are written.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from resnet_jax.data.records import Records
from resnet_jax.report.example_pairs import CAPTION, NAMES, SAID
from resnet_jax.runs.build import build_eval_step, evaluation_feed
from resnet_jax.runs.job import Job
from resnet_jax.runtime import processes
from resnet_jax.training.compile import compile_eval_step
from resnet_jax.training.placement import shard_batch

#: The maximum number of examples in the figure.
COUNT = 12
#: Entries of a batch that are not fields of an example.
_OWN = ("mask", "index", "epoch", "label")


def is_unusual(shape: tuple[int, ...]) -> bool:
    """Return whether inputs are signals, volumes, or images with bands other than gray or RGB.

    >>> is_unusual((28, 28, 3)), is_unusual((28, 28, 28, 1)), is_unusual((28, 28, 6)), is_unusual((100, 1))
    (False, True, True, True)
    """
    return len(shape) != 3 or shape[-1] not in (1, 3)


def true_answer(label: np.ndarray, names: tuple[str, ...]) -> str:
    """Return a label in words: a class, the labels of an example, or values.

    >>> true_answer(np.int64(1), ("no", "yes")), true_answer(np.float32([0, 1, 1]), ("a", "b", "c"))
    ('yes', 'b, c')
    >>> true_answer(np.float32(2.5), ("age",))
    'age 2.5'
    """
    if label.ndim == 0 and np.issubdtype(label.dtype, np.integer):
        return names[int(label)] if 0 <= int(label) < len(names) else str(label)
    values = np.atleast_1d(label)
    if len(values) == 1 and len(names) == 2 and values[0] in (0, 1):
        return names[int(values[0])]
    if len(values) > 1 and set(values.tolist()) <= {0, 1}:
        return ", ".join(name for name, value in zip(names, values, strict=False) if value) or "none of them"
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values, strict=False))


def answer(found: list[tuple[int, float]], names: tuple[str, ...], kind: str) -> str:
    """Return the prediction for one example in words: for probabilities ``yes 93%``, otherwise values.

    >>> answer([(1, 0.93)], ("no", "yes"), "probabilities"), answer([(0, 2.5)], ("age",), "values")
    ('yes 93%', 'age 2.5')
    """
    shown = [(names[index] if index < len(names) else str(index), number) for index, number in found[:3]]
    return ", ".join(
        f"{name} {number:.0%}" if kind == "probabilities" else f"{name} {number:.4g}" for name, number in shown
    )


def predicted_examples(job: Job, variables: Any, records: Records, count: int = COUNT) -> dict[str, np.ndarray]:
    """Return the first examples as the network sees them, and its predictions for each.

    Returns nothing for a task whose predictions are not drawn, or with several processes, each of which has a part.

    Args:
        job: the run.
        variables: variables of its network.
        records: the test examples.
        count: the maximum number of examples.

    Returns:
        Their fields (n, ...), their ``names``, and the predictions under ``said/`` and the name of the field.
    """
    task, card = job.parts.task, job.images.card
    draws = getattr(task, "draws_examples", False)
    if not (draws or is_unusual(card.image_shape)) or processes.count() > 1:
        return {}
    step = compile_eval_step(build_eval_step(job.config, job.parts.model, card, logits=True), job.parts.placement)
    unreadable = job.images.unreadable_of(records)
    batch = next(iter(evaluation_feed(job.config, records, unreadable=unreadable)))
    rows = np.flatnonzero(batch["mask"])[:count]
    outputs = step(variables, shard_batch(batch, job.parts.placement))["rows"]["logits"]
    outputs = jax.tree.map(lambda each: np.asarray(each)[rows], outputs)
    fields = {name: np.asarray(values)[rows] for name, values in batch.items() if name not in _OWN}
    if not draws and not isinstance(outputs, np.ndarray):
        return {}
    if draws:
        said, sides = task.predicted_fields(outputs), batch["image"].shape[1:-1]
        said |= {name: at_sides(values, sides) for name, values in said.items() if card.meanings.get(name) == "mask"}
        if (told := getattr(task, "true_captions", None)) is not None:
            fields[CAPTION] = told(batch)[rows]
    else:
        names = task.answer_names(card.class_names)
        fields[CAPTION] = np.array([true_answer(label, names) for label in np.asarray(batch["label"])[rows]])
        said = {CAPTION: np.array([answer(found, names, task.answers) for found in task.predict(outputs, 1)])}
    described = np.array([records.describe(index) for index in batch["index"][rows].tolist()])
    return {**fields, NAMES: described, **{f"{SAID}{name}": np.asarray(values) for name, values in said.items()}}


def at_sides(masks: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """Return masks (n, ...) at the size of inputs: the nearest position of each pixel.

    >>> at_sides(np.array([[1, 2]], np.uint8), (4,)).tolist()
    [[1, 1, 2, 2]]
    """
    for axis, side in enumerate(sides, start=1):
        have = masks.shape[axis]
        if have != side:
            masks = masks.take((2 * np.arange(side) + 1) * have // (2 * side), axis=axis)
    return masks
