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

    A block has a squared norm for each example; they are summed for all blocks at once. The branch receives a second
    copy of the block's input, so that both gradients arrive at one place. In pre-activation order the branch's input is
    not the block's; there the gradient is measured after the two have been added.
    """

    def __init__(self) -> None:
        self._branches: dict[int, tuple[Array, Array]] = {}

    def __call__(self, block: nn.Module, point: str, x: Array) -> Array:
        if point == "input" and not block.has_variable(PROBES, point):
            if block.is_mutable_collection(PROBES) and not block.is_initializing():
                block.put_variable(PROBES, point, jnp.zeros(x.shape[0], jnp.float32))
        elif point == "input":
            source = ops.relu_operand(x)  # of the previous block, whose mask belongs to the same pass
            number = block.get_variable(PROBES, point)
            skip, branch = ops.fork(x, number) if source is None else ops.fork(source, number, relu=True)
            self._branches[id(skip)] = (skip, branch)
            return skip
        elif point == "branch_in" and id(x) in self._branches:
            return self._branches.pop(id(x))[1]
        return x


class _Joins:
    """A hook that adds the gradients of a block's skip and branch where they meet, as :class:`_Forks` does.

    In pre-activation order the branch's gradient comes from an elementwise operation, which absorbs the addition
    anyway.
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
    """Whether the gradient of a block's branch, to which that of its skip is added, comes from a convolution."""
    config = getattr(block, "config", None)
    return config is not None and not config.is_pre and config.shortcut != "none"


def is_due(step: int, every: int) -> bool:
    """Return whether the update after ``step`` others is one whose gradients are measured.

    >>> [step for step in range(10) if is_due(step, 4)]
    [0, 4, 8]
    """
    return step % every == 0


@contextlib.contextmanager
def taps(anatomy: BlockNames | None) -> Iterator[None]:
    """Within this context, networks are applied with a tap at every block's input; without anatomy, with none.

    Either way, this library's networks add the gradients that meet there in one pass.
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
    """Return the norm of dL/dx at every block, where L is the mean loss of the whole batch.

    Every part of the batch, on another device or in another micro-batch, has its own examples, whose gradients are 1 /
    parts of what they are for the part's own mean loss: squares add up, divided by parts^2.

    Args:
        chart: chart of the taps.
        squares: gradient with respect to the probes, a number for each example, combined over the parts like gradients
            of parameters: their mean.
        accumulate: number of micro-batches.
        scale: the loss scale, by which ``squares`` have already been divided once.
        axis_name: mapped axis over which the batch is sharded.
    """
    parts = jnp.asarray(accumulate * (1 if axis_name is None else lax.psum(1, axis_name)), jnp.float32)
    factor = parts if scale is None else parts * scale.astype(jnp.float32)
    if len({leaf.shape[-1] for leaf in jax.tree.leaves(squares)}) > 1:  # different numbers of rows in some blocks
        squares = jax.tree.map(lambda leaf: jnp.sum(leaf, -1, keepdims=True), squares)
    return jnp.sqrt(jnp.sum(chart.rows(squares, "input"), -1) / factor)


def chart_blocks(model: nn.Module, image_shape: tuple[int, ...], batch: int, anatomy: BlockNames) -> BlockIndex:
    """Return the chart of the blocks that the step's ``block_grad_norm`` refers to, without computing anything.

    Args:
        model: the network.
        image_shape: shape of one image.
        batch: number of images that it normalizes together; a network may reject other numbers.
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
