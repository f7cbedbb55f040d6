"""Contrastive training of two towers: examples are pairs, and each half should find the other in the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, assert_never

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.tasks.classification import confusion_details, hard_labels, require_classes
from resnet_jax.tasks.config import Positives, TaskConfig
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.registry import register_task, require_kind
from resnet_jax.tasks.retrieval import RANKS, recalls, zero_shot
from resnet_jax.tasks.task import Answers, Batch, TaskBase, ranked

#: Replaces log 0 where an example of the batch is padding.
_NEVER = -1e9
_SIDES = ("image", "other")


@dataclasses.dataclass(frozen=True)
class Contrastive(TaskBase):
    r"""The symmetric InfoNCE loss over a batch of pairs (image, other), one pair per example.

    With embeddings of length 1, :math:`s_{ij} = x_i \cdot y_j / \tau` and :math:`P(i)` the positives of i,

    .. math:: \ell_i = -\frac{1}{2 |P(i)|} \sum_{j \in P(i)}
              \Big(\log \frac{e^{s_{ij}}}{\sum_k e^{s_{ik}}} + \log \frac{e^{s_{ji}}}{\sum_k e^{s_{ki}}}\Big)

    with ``pair`` :math:`P(i) = \{i\}`: InfoNCE in both directions (van den Oord et al. 2018, arXiv 1807.03748, eq. 4;
    Radford et al. 2021, arXiv 2103.00020, figure 3). With ``class``, :math:`P(i)` are all examples of the batch with
    the same class (Khosla et al. 2020, arXiv 2004.11362, eq. 2, between two towers; Yang et al. 2022, arXiv 2204.03610,
    eq. 3). The sums run over the whole batch, however many devices share it.

    Metrics are computed over all pairs of a data set; see :mod:`resnet_jax.tasks.retrieval`. The headline,
    ``class_recall1``, is how often the nearest item of the other side has the right class, averaged over both
    directions.

    Attributes:
        num_outputs: width of the embeddings.
        classes: number of classes of the labels.
        positives: ``pair`` or ``class``.

    >>> x = jnp.eye(3)
    >>> outputs = {"image": x, "other": x, "scale": jnp.full(3, 20.0)}
    >>> batch = {"label": jnp.array([0, 0, 1])}
    >>> Contrastive(3, 2, "pair").loss(outputs, batch).round().astype(int).tolist()
    [0, 0, 0]
    >>> Contrastive(3, 2, "class").loss(outputs, batch).round().astype(int).tolist()
    [10, 10, 0]
    """

    kind: ClassVar[str] = "contrastive"
    headline: ClassVar[str] = "class_recall1"
    mode: ClassVar[Literal["max", "min"]] = "max"
    inputs: ClassVar[tuple[str, ...]] = _SIDES
    compares: ClassVar[bool] = True
    draws_examples: ClassVar[bool] = False
    answers: ClassVar[Answers] = "values"

    classes: int = 0
    positives: Positives = "class"

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Reject labels outside the classes."""
        if self.classes:
            require_classes(batch, self.classes)

    def loss(self, outputs: Any, batch: Batch) -> jax.Array:
        """Return the loss of every example, (N,); rows with ``mask`` False are never negatives."""
        scores = self._scores(outputs, batch)
        targets = self._targets(batch, len(scores))
        there = (jax.nn.log_softmax(scores, axis=1) * targets).sum(axis=1)
        back = (jax.nn.log_softmax(scores, axis=0) * targets).sum(axis=0)
        return -0.5 * (there + back)

    def _scores(self, outputs: Any, batch: Batch) -> jax.Array:
        """Return the scaled similarities, (N images, N others)."""
        image, other = outputs["image"], outputs["other"]
        scores = jnp.matmul(image, other.T, precision=jax.lax.Precision.HIGHEST) * outputs["scale"][0]
        if "mask" not in batch:
            return scores
        both = batch["mask"][:, None] & batch["mask"][None]
        return jnp.where(both, scores, jnp.asarray(_NEVER, scores.dtype))

    def _targets(self, batch: Batch, count: int) -> jax.Array:
        """Return the target distribution over the positives of every example, float32 (N, N): symmetric, rows sum to
        1.
        """
        match self.positives:
            case "pair":
                return jnp.eye(count, dtype=jnp.float32)
            case "class":
                labels = hard_labels(batch["label"])
                same = labels[:, None] == labels[None]
                if "mask" in batch:
                    same = same & batch["mask"][:, None] & batch["mask"][None]
                same = (same | jnp.eye(count, dtype=bool)).astype(jnp.float32)
                return same / same.sum(axis=1, keepdims=True)
            case _:
                assert_never(self.positives)

    def train_sums(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Return ``nearest``: whether the item nearest to each image in the batch has its class, bool (N,)."""
        labels = hard_labels(batch["label"])
        return {"nearest": labels[jnp.argmax(self._scores(outputs, batch), axis=1)] == labels}

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return ``batch_recall1``, by class, from image to other, within batches."""
        return {"batch_recall1": sums["nearest"] / count}

    def eval_sums(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Return ``scale``: that of the network, once per example."""
        return {"scale": outputs["scale"]}

    def eval_rows(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Return the embeddings, float32 (N, width), as ``image`` and ``other``, and ``label``."""
        return {**{side: outputs[side] for side in _SIDES}, "label": hard_labels(batch["label"])}

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return recall in both directions, by class and by pair, and the accuracy of zero-shot classification."""
        found: dict[str, float] = {}
        for source, target in (("image", "other"), ("other", "image")):
            for by, hits in recalls(rows[source], rows[target], rows["label"]).items():
                found |= {f"{source}_to_{target}_{by}_recall{k}": float(hits[k].mean()) for k in RANKS}
        mean = (found["image_to_other_class_recall1"] + found["other_to_image_class_recall1"]) / 2
        scale = float(sums["scale"]) / count
        probabilities = zero_shot(rows["image"], rows["other"], rows["label"], self.classes, scale)
        right = {side: (p.argmax(axis=1) == rows["label"]).mean() for side, p in probabilities.items()}
        return {
            self.headline: mean,
            **found,
            **{f"zero_shot_{side}": float(share) for side, share in right.items()},
            "temperature": 1 / scale,
        }

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return precision, recall and F1 of every class by zero-shot classification of both sides together."""
        scale = float(sums["scale"]) / count
        both = zero_shot(rows["image"], rows["other"], rows["label"], self.classes, scale)["both"]
        found = confusion_details(rows["label"], both.argmax(axis=1).astype(np.int32), self.classes)
        return {name: found[name] for name in ("precision", "recall", "f1")}

    def mean_outputs(self, outputs: Any) -> Any:
        """Return the mean of the embeddings of several views (views, N, d), scaled to length 1."""
        mean = jax.tree.map(lambda each: each.mean(axis=0), outputs)
        sides = {name: each for name, each in mean.items() if name in _SIDES}
        lengths = {name: jnp.linalg.norm(each, axis=-1, keepdims=True) for name, each in sides.items()}
        return {**mean, **{name: each / jnp.maximum(lengths[name], 1e-6) for name, each in sides.items()}}

    def predict(self, outputs: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
        """Return the largest components of each embedding (N, width)."""
        return ranked(np.asarray(outputs, np.float64), top)


@register_task("contrastive", uses=("embedding_width", "positives"))
def make_contrastive(config: TaskConfig, facts: TaskFacts) -> Contrastive:
    """Return the configured contrastive task."""
    require_kind("contrastive", facts, "class")
    width = config.embedding_width if facts.outputs is None else facts.outputs
    return Contrastive(width, len(facts.names), config.positives)
