"""Contact sheets of a test set: the most confident mistakes and the hardest images."""

from __future__ import annotations

import dataclasses

import numpy as np

from resnet_jax.data.example import MEANING_OF_RANK
from resnet_jax.errors import UsageError
from resnet_jax.report.contact_sheet import Seen, Sheet, Shown
from resnet_jax.report.example_axes import Style
from resnet_jax.runs.chosen import choose_images
from resnet_jax.runs.evaluate import evaluate_run
from resnet_jax.runs.trained import TrainedRun, class_names_of
from resnet_jax.tasks.binary import Binary
from resnet_jax.tasks.classification import Classification


@dataclasses.dataclass(frozen=True, eq=False)
class Mistakes:
    """The mistakes of a network on a test set.

    Attributes:
        confident: indices of misclassified images, most confident first.
        hardest: indices of the images with the smallest probability of their own class, smallest first.
        probabilities: of every image and class, float64 (N, K); NaN for images that could not be read.
        labels: int (N,).
        sheets: contact sheets of the two, by name.
    """

    confident: np.ndarray
    hardest: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    sheets: dict[str, Sheet]


def find_mistakes(trained: TrainedRun, split: str = "test", source: str | None = None, count: int = 24) -> Mistakes:
    """Evaluate a split, and return its most confident mistakes and its hardest images.

    Wrongly entered labels are often among the first.

    Args:
        trained: a network for classification.
        split: a split of the run's own data, or of the source.
        source: other images; None for the run's own.
        count: number of images per sheet.

    Raises:
        UsageError: the network has another task, or there is no such split.
    """
    task, names = require_classes(trained), class_names_of(trained)
    result = evaluate_run(trained, split, source=source, logits=True)
    assert result.logits is not None
    probabilities = task.probabilities(np.asarray(result.logits))
    chosen = choose_images(trained, split, source)
    records, labels = chosen.records, np.asarray(chosen.records.labels).reshape(-1).astype(int)
    confident, hardest = ranked_mistakes(probabilities, labels, count)
    sheets = {}
    wrong = int((probabilities.argmax(axis=1) != labels).sum() - np.isnan(probabilities[:, 0]).sum())
    for name, title, order in (
        ("mistakes", f"The most confident of {wrong:,} mistakes", confident),
        ("hardest", "The images whose own class seemed least likely", hardest),
    ):
        shown = []
        for index in order.tolist():
            own, said = labels[index], int(probabilities[index].argmax())
            text = f"true: {names[own]} {probabilities[index, own]:.1%}\nsaid: {names[said]}"
            text += f" {probabilities[index, said]:.1%}"
            shown.append(Shown(records.describe(index), Seen({"image": records[index]["image"]}, text)))
        if not shown:
            continue
        images = np.stack([one.stored.example["image"].reshape(-1)[:1] for one in shown])
        low, high = (0.0, 255.0) if images.dtype == np.uint8 else _range(shown)
        meaning = MEANING_OF_RANK.get(shown[0].stored.example["image"].ndim, "array")
        lines = (f"{len(shown)} of {len(labels):,} images of {chosen.what}", *chosen.said[:2])
        sheets[name] = Sheet(title, lines, shown, Style(names, {"image": meaning}, low, high))
    return Mistakes(confident, hardest, probabilities, labels, sheets)


def require_classes(trained: TrainedRun) -> Classification | Binary:
    """Return the task of a classification network; reject any other.

    Raises:
        UsageError: the network has another task.
    """
    if not isinstance(trained.task, Classification | Binary):
        raise UsageError(f"--mistakes needs a classifier, and {trained.path} is a network for {trained.task.kind}")
    return trained.task


def ranked_mistakes(probabilities: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the most confident mistakes and of the hardest images; those without probabilities are left
    out.

    >>> p = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [np.nan, np.nan]])
    >>> [found.tolist() for found in ranked_mistakes(p, np.array([1, 0, 0, 0]), 2)]
    [[0, 1], [0, 1]]
    """
    known = ~np.isnan(probabilities).any(axis=1)
    said = np.where(known, np.nan_to_num(probabilities).argmax(axis=1), labels)
    sure = np.nan_to_num(probabilities).max(axis=1)
    own = np.where(known, probabilities[np.arange(len(labels)), labels], np.inf)
    wrong = np.flatnonzero(said != labels)
    confident = wrong[np.argsort(-sure[wrong], kind="stable")][:count]
    hardest = np.argsort(own, kind="stable")[: min(count, int(known.sum()))]
    return confident, hardest


def _range(shown: list[Shown]) -> tuple[float, float]:
    low, high = np.percentile(
        np.concatenate([np.ravel(one.stored.example["image"]) for one in shown]).astype(np.float64), (0.5, 99.5)
    )
    return float(low), float(high) if high > low else float(low) + 1
