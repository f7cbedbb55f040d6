"""The predict step: the outputs of a network for a batch in evaluation mode; needs no optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from resnet_jax.models.towers import inputs_of
from resnet_jax.training.mapped import mapped_outputs, mapped_over

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Preprocess = Callable[[jax.Array, Batch], "jax.Array | Batch"]
#: ``(key, batch)``, or ``(key, batch, given)`` for a step that takes additional arrays.
TrainPreprocess = Callable[..., jax.Array | tuple[jax.Array, jax.Array] | Batch]


def prepared(
    preprocess: TrainPreprocess | Preprocess | None, key: jax.Array, batch: Batch, *given: Any
) -> dict[str, jax.Array]:
    """Return the batch as the network and the task need it: ``image`` and other changed fields, such as ``label``."""
    if preprocess is None:
        return dict(batch)
    made = preprocess(key, batch, *given)
    if isinstance(made, Mapping):
        return {**batch, **made}
    images, labels = made if isinstance(made, tuple) else (made, None)
    return {**batch, "image": images} if labels is None else {**batch, "image": images, "label": labels}


def make_predict_step(
    model: nn.Module, *, preprocess: Preprocess | None = None
) -> Callable[[Mapping[str, Any], Batch], jax.Array]:
    """Build ``predict_step(variables, batch) -> logits`` in evaluation mode, in float32 or wider."""

    def predict_step(variables: Mapping[str, Any], batch: Batch) -> jax.Array:
        found = prepared(preprocess, jax.random.key(0), batch)
        images = inputs_of(model, found)
        devices = mapped_over(model, None, found["image"].shape[0])
        if devices is not None:
            return mapped_outputs(model, devices)(variables, images)
        logits: Any = model.apply(variables, images, train=False)
        return logits

    return predict_step
