"""The gradient that reaches every block, measured inside the train step by taps (:mod:`resnet_jax.ops.probe`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.instrument.hooks import BlockIndex, BlockNames, Hook, index_blocks, instrumented
from resnet_jax.models.collections import PROBES
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.towers import abstract_inputs


class _Forks:
    """A hook that measures the gradient at the input of every block, where those of its skip and branch meet.

    A block has a squared norm for each example: they are added up for all blocks at once. The branch is given the
    second of two copies of the block's input, so that both gradients come to one place. In pre-activation order its
    input is not the block's; there the gradient is measured when the two have been added.
    """

    def __init__(self) -> None:
        self._branches: dict[int, tuple[Array, Array]] = {}

    def __call__(self, block: nn.Module, point: str, x: Array) -> Array:
        if point == "input" and not block.has_variable(PROBES, point):
            if block.is_mutable_collection(PROBES) and not block.is_initializing():
                block.put_variable(PROBES, point, jnp.zeros(x.shape[0], jnp.float32))
        elif point == "input":
            source = ops.relu_operand(x)  # of the block before: its mask belongs to the same pass
            number = block.get_variable(PROBES, point)
            skip, branch = ops.fork(x, number) if source is None else ops.fork(source, number, relu=True)
            self._branches[id(skip)] = (skip, branch)
            return skip
        elif point == "branch_in" and id(x) in self._branches:
            return self._branches.pop(id(x))[1]
        return x


class _Joins:
    """A hook that lets the gradients of a block's skip and branch be added where they meet, as :class:`_Forks` does.

    In pre-activation order the branch's comes out of an elementwise operation, which takes the addition in by itself.
    """

    def __init__(self) -> None:
        self._branches: dict[int, tuple[Array, Array]] = {}

    def __call__(self, block: nn.Module, point: str, x: Array) -> Array:
        if point == "input" and _adds_to_a_convolution(block):
            source = ops.relu_operand(x)
            skip, branch = ops.twice(x) if source is None else ops.twice(source, relu=True)
            self._branches[id(skip)] = (skip, branch)
            return skip
        if point == "branch_in" and id(x) in self._branches:
            return self._branches.pop(id(x))[1]
        return x


def _adds_to_a_convolution(block: nn.Module) -> bool:
    """Whether the gradient of a block's branch, to which that of its skip is added, is one of a convolution."""
    config = getattr(block, "config", None)
    return config is not None and not config.is_pre and config.shortcut != "none"


def is_due(step: int, every: int) -> bool:
    """Return whether the update that ``step`` others precede is one of those whose gradients are looked at.

    >>> [step for step in range(10) if is_due(step, 4)]
    [0, 4, 8]
    """
    return step % every == 0


@contextlib.contextmanager
def taps(anatomy: BlockNames | None) -> Iterator[None]:
    """Within this context networks are applied with a tap at every block's input; without anatomy, with none.

    Either way the gradients that meet there are added in one pass, in this library's networks.
    """
    hook: Hook = _Joins() if anatomy is None else _Forks()
    with ops.remembered_relus(), instrumented(anatomy or BlockNames(), hook):
        yield


def chart_taps(apply: Callable[[list[str]], Any], anatomy: BlockNames) -> BlockIndex:
    """Return where a network's taps are; see :func:`resnet_jax.instrument.hooks.index_blocks`."""
    return index_blocks(apply, anatomy, _Forks())


def block_grad_norm(
    chart: BlockIndex, squares: Any, *, accumulate: int, scale: Array | None, axis_name: str | None
) -> Float[Array, " blocks"]:
    """Return the norm of dL/dx at every block, L the mean loss of the whole batch.

    Every part of the batch, on another device or in another micro-batch, has its own examples, whose gradients are 1 /
    parts of what they are for the part's own mean loss: squares add up, over parts^2.

    Args:
        chart: of the taps.
        squares: the gradient with respect to the probes, a number for each example, combined over the parts as
            gradients of parameters are: their mean.
        accumulate: micro-batches.
        scale: the loss scale, by which ``squares`` have been divided once as well.
        axis_name: mapped axis over which the batch is cut.
    """
    parts = jnp.asarray(accumulate * (1 if axis_name is None else lax.psum(1, axis_name)), jnp.float32)
    factor = parts if scale is None else parts * scale.astype(jnp.float32)
    if len({leaf.shape[-1] for leaf in jax.tree.leaves(squares)}) > 1:  # not the same number of rows in all blocks
        squares = jax.tree.map(lambda leaf: jnp.sum(leaf, -1, keepdims=True), squares)
    return jnp.sqrt(jnp.sum(chart.rows(squares, "input"), -1) / factor)


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
    images = abstract_inputs(model, image_shape, batch)
    charts: list[BlockIndex] = []

    def chart(variables, images):
        rngs = {"dropout": jax.random.key(0)}

        def apply(mutable):
            return model.apply(variables, images, train=True, mutable=mutable, rngs=rngs)

        charts.append(chart_taps(apply, anatomy))

    jax.eval_shape(chart, variables, images)
    return charts[0]
