"""The gradient that reaches every block, measured inside the train step by taps (:func:`resnet_jax.ops.tap`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.instrument.hooks import BlockIndex, BlockNames, index_blocks, instrumented, probe
from resnet_jax.models.count import abstract_variables

_HOOK = probe("input")


def is_due(step: int, every: int) -> bool:
    """Return whether the update that ``step`` others precede is one of those whose gradients are looked at.

    >>> [step for step in range(10) if is_due(step, 4)]
    [0, 4, 8]
    """
    return step % every == 0


def taps(anatomy: BlockNames | None) -> contextlib.AbstractContextManager[None]:
    """Return a context in which networks are applied with a tap at every block's input; without anatomy, with none."""
    return contextlib.nullcontext() if anatomy is None else instrumented(anatomy, _HOOK)


def chart_taps(apply: Callable[[list[str]], Any], anatomy: BlockNames) -> BlockIndex:
    """Return where a network's taps are; see :func:`resnet_jax.instrument.hooks.index_blocks`."""
    return index_blocks(apply, anatomy, _HOOK)


def block_grad_norm(
    chart: BlockIndex, squares: Any, *, accumulate: int, scale: Array | None, axis_name: str | None
) -> Float[Array, " blocks"]:
    """Return the norm of dL/dx at every block, L the mean loss of the whole batch.

    Every part of the batch, on another device or in another micro-batch, has its own examples, whose gradients are 1 /
    parts of what they are for the part's own mean loss: squares add up, over parts^2.

    Args:
        chart: of the taps.
        squares: the gradient with respect to the probes, combined over the parts as gradients of parameters are: their
            mean.
        accumulate: micro-batches.
        scale: the loss scale, by which ``squares`` have been divided once as well.
        axis_name: mapped axis over which the batch is cut.
    """
    parts = jnp.asarray(accumulate * (1 if axis_name is None else lax.psum(1, axis_name)), jnp.float32)
    factor = parts if scale is None else parts * scale.astype(jnp.float32)
    return jnp.sqrt(chart.rows(squares, "input") / factor)


def chart_blocks(model: nn.Module, image_shape: tuple[int, ...], batch: int, anatomy: BlockNames) -> BlockIndex:
    """Return the chart of the blocks that the step's ``block_grad_norm`` is about; nothing is computed.

    Args:
        model: the network.
        image_shape: of one image.
        batch: images that it normalizes together: a network may refuse other numbers.
        anatomy: what a block is.

    >>> from resnet_jax.models import create_model
    >>> chart_blocks(create_model("resnet20_cifar"), (32, 32, 3), 128, BlockNames()).names[:2]
    ('stage1/block0', 'stage1/block1')
    """
    variables = abstract_variables(model, image_shape)
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    charts: list[BlockIndex] = []

    def chart(variables, images):
        rngs = {"dropout": jax.random.key(0)}

        def apply(mutable):
            return model.apply(variables, images, train=True, mutable=mutable, rngs=rngs)

        charts.append(chart_taps(apply, anatomy))

    jax.eval_shape(chart, variables, images)
    return charts[0]
