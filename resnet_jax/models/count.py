"""Exact sizes of a network from its shapes alone: nothing is allocated and nothing is run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models.layers import Conv, Head


@dataclasses.dataclass(frozen=True)
class Counts:
    """Sizes of a network.

    Attributes:
        params: trainable scalars.
        batch_stats: running means and variances (scalars, not trainable).
        macs: multiply-adds of all convolutions and linear layers for one image; no norm, activation or pooling.
    """

    params: int
    batch_stats: int
    macs: int


def count(model: nn.Module, input_shape: Sequence[int]) -> Counts:
    """Count parameters, statistics and multiply-adds of ``model`` on one image of ``input_shape`` (no batch axis).

    >>> from resnet_jax.models.zoo import create_model
    >>> count(create_model("resnet20_cifar"), (32, 32, 3))
    Counts(params=269722, batch_stats=1376, macs=40551040)
    """
    macs = 0

    def tally(call, args, kwargs, context):
        nonlocal macs
        out = call(*args, **kwargs)
        if isinstance(context.module, (Conv, Head)) and context.method_name == "__call__":
            kernel = context.module.variables["params"]["kernel"]
            macs += math.prod(out.shape[1:-1]) * math.prod(kernel.shape)
        return out

    with nn.intercept_methods(tally):
        shapes = abstract_variables(model, input_shape)
    return Counts(_scalars(shapes["params"]), _scalars(shapes.get("batch_stats", {})), macs)


def abstract_variables(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """Return the variables of ``model`` as shapes and dtypes, for one image of ``input_shape`` (no batch axis)."""

    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros((1, *input_shape)), train=False)

    return jax.eval_shape(init, jax.random.key(0))


def _scalars(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
