"""Retrieval results of two towers on the test: similarities of many pairs, and nearest neighbors of some examples."""

from __future__ import annotations

import numpy as np

from resnet_jax.data.example import OTHER
from resnet_jax.data.records import Records
from resnet_jax.report.retrieval import FOUND, LABELS, QUERIES, RECALLS, SIMILARITY, WAYS, ZERO_SHOT
from resnet_jax.runs.job import Job
from resnet_jax.runtime import processes
from resnet_jax.tasks.retrieval import RANKS
from resnet_jax.training.evaluation import Evaluation

#: Pairs in the similarity matrix, examples whose nearest neighbors are shown, and number of these neighbors.
PAIRS, SHOWN, NEAREST = 200, 6, 5


def retrieved_examples(job: Job, result: Evaluation, records: Records) -> dict[str, np.ndarray]:
    """Return the data for a figure of retrieval.

    Returns nothing if test examples could not be read, or with several processes, each of which has a part.

    Args:
        job: the run.
        result: result of its test; its rows are the embeddings.
        records: the test examples.

    Returns:
        ``similarity`` (n, n) of pairs in the order of their classes, and their ``labels`` (n,); ``recalls`` (2, ranks)
        by class, ``zero_shot`` (3,) of image, other and both; and from each side to the other ``queries/image`` (q,
        ...), ``found/image`` (q, k, ...), with their labels.
    """
    if processes.count() > 1 or job.images.unreadable_of(records):
        return {}
    labels, sides = result.rows["label"], {name: result.rows[name] for name in ("image", OTHER)}
    spread = np.argsort(labels, kind="stable")
    spread = spread[np.arange(min(PAIRS, len(labels))) * len(labels) // min(PAIRS, len(labels))]
    kept = {SIMILARITY: sides["image"][spread] @ sides[OTHER][spread].T, LABELS: labels[spread]}
    kept[RECALLS] = np.array([[result.metrics[f"{way}_class_recall{k}"] for k in RANKS] for way in WAYS])
    kept[ZERO_SHOT] = np.array([result.metrics[f"zero_shot_{side}"] for side in ("image", OTHER, "both")])
    queries = spread[(np.arange(SHOWN) * len(spread) // SHOWN + len(spread) // (2 * SHOWN)) % len(spread)]
    for source, target in (("image", OTHER), (OTHER, "image")):
        nearest = np.argsort(-(sides[source][queries] @ sides[target].T), axis=1, kind="stable")[:, :NEAREST]
        kept[f"{QUERIES}{source}"] = np.stack([records[int(index)][source] for index in queries])
        rows = [np.stack([records[int(index)][target] for index in row]) for row in nearest]
        kept[f"{FOUND}{source}"] = np.stack(rows)
        kept[f"{QUERIES}{source}/{LABELS}"], kept[f"{FOUND}{source}/{LABELS}"] = labels[queries], labels[nearest]
    return kept
