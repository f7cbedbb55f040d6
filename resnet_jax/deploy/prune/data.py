"""Training images for pruning: batches, the loss on them, and batch statistics measured on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from resnet_jax.data.pipeline import Batch
from resnet_jax.data.records import Records, Subset
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.errors import UsageError
from resnet_jax.models.resnet import ResNet
from resnet_jax.runs.build import build_evaluation, evaluation_feed
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runs.finetune import same_order
from resnet_jax.runs.preparation import eval_preprocess
from resnet_jax.runs.trained import TrainedRun, require_normalization
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.reestimation import reestimate


@dataclasses.dataclass(frozen=True)
class TrainingImages:
    """Some training images of a run, in random order, without augmentation.

    Attributes:
        trained: the network they are for.
        config: the configuration that names their data.
        records: the images.
    """

    trained: TrainedRun
    config: RunConfig
    records: Records

    @classmethod
    def of(cls, trained: TrainedRun, config: RunConfig, count: int) -> TrainingImages:
        """Load the images.

        Args:
            trained: the network.
            config: names the data.
            count: maximum number of images.

        Raises:
            UsageError: their classes are not those of the network, or the network does not say how images are
                normalized.
            DataError: they cannot be read.
        """
        require_normalization(trained)
        images = load_images(config)
        card = images.card
        if card.image_shape != trained.card.image_shape:
            raise UsageError(
                f"{config.data.place} has inputs of {card.image_shape}, and {trained.path} takes "
                f"{trained.card.image_shape}: data.image_size brings images to another size"
            )
        classes = trained.card.class_names
        if len(card.class_names) == len(classes) and same_order(card.class_names, classes) is None:
            raise UsageError(f"{config.data.place} has other classes than {trained.path}, or in another order")
        train = images.splits.train
        order = permutation(len(train), config.seed, SHUFFLE)[:count]
        return cls(trained, config, Subset(train, order))

    def normalized(self) -> Iterator[np.ndarray]:
        """Yield normalized batches (N, *spatial, C), the last one without padding."""
        preprocess = eval_preprocess(self.trained.model, self.trained.card)
        for batch in self._batches():
            yield np.asarray(preprocess(None, batch))[np.asarray(batch["mask"])]  # pyright: ignore

    def loss(self, model: ResNet) -> Callable[[Mapping[str, Any]], float]:
        """Return a function from variables of ``model`` to the mean loss on the images; it is compiled once."""
        evaluation = build_evaluation(self.config, model, self.trained.card, make_mesh())
        return lambda variables: float(evaluation(variables, self.records).loss)

    def recalibrated(self, model: ResNet, variables: dict[str, Any]) -> dict[str, Any]:
        """Return variables with batch statistics measured on the images; unchanged if the network has no running
        statistics.
        """
        if model.config.norm != "batch" or model.config.norm_scope == "frozen":
            return variables
        whole = [batch for batch in self._batches() if np.all(batch["mask"])]
        if not whole:
            return variables
        found = reestimate(
            model, variables, whole, norm_momentum=model.config.norm_momentum,
            preprocess=eval_preprocess(model, self.trained.card),
        )  # fmt: skip
        return dict(found)

    def _batches(self) -> Iterator[Batch]:
        return evaluation_feed(self.config, self.records)
