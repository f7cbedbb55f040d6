"""A network as a chain of functions: stem, blocks, and the rest. Equal blocks share one function.

The compiled code therefore does not grow with depth, and the parts can be taken apart and recombined.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from resnet_jax.errors import UsageError
from resnet_jax.models.block import Block
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.layout import unstack
from resnet_jax.models.paths import STEM, block_name, stage_index, stage_name
from resnet_jax.models.plan import BlockInputs, BlockSpec, plan_stages
from resnet_jax.models.resnet import ResNet, Stage, Stem


@dataclasses.dataclass(frozen=True)
class Kind:
    """A function ``(variables, beta, x) -> y`` of the chain; equal ones are compiled once.

    Attributes:
        part: ``stem``, ``block`` or ``rest`` (everything after the last block).
        config: the network's choices, without its depth.
        block: for a block: its spec, without its place.
        train: the mode of the norms.
    """

    part: str
    config: ResNetConfig
    block: BlockSpec | None
    train: bool

    def __call__(self, variables: Any, beta: Array, x: Array) -> Array:
        """Return the output of this part for ``x``."""
        config = self.config
        if self.part == "stem":
            return self._apply(Stem(config), variables, x.astype(config.dtype))
        if self.block is not None:
            return self._apply(Block(config, self.block), variables, x, varying=BlockInputs(beta, 0.0))
        with nn.intercept_methods(functools.partial(_instead_of_blocks, x)):
            return self._apply(
                ResNet(config), variables, jnp.zeros((1,) * (config.spatial_dims + 1) + (config.in_channels,))
            )

    def _apply(self, module: nn.Module, variables: Any, x: Array, **kwargs: Any) -> Array:
        return module.apply(variables, x, train=self.train, mutable=["batch_stats"], **kwargs)[0]


def _instead_of_blocks(x: Array, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if context.method_name == "__call__" and isinstance(context.module, (Stem, Stage)):
        return x
    return call(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Link:
    """One part of a given network.

    Attributes:
        kind: its function.
        name: its path in the listed layout.
        stage: for a block, its stage from 0; otherwise -1.
        variables: its variables.
        beta: the factor of the NF rules.
    """

    kind: Kind
    name: str
    stage: int
    variables: Any
    beta: np.ndarray


def require_blocks_only(config: ResNetConfig) -> None:
    """Reject a network that is more than a stem, a sequence of blocks and a classifier.

    Raises:
        UsageError: there is a layer between the stages.
    """
    if config.transition == "conv_pool":
        raise UsageError(f"a network with transition {config.transition} is not a chain of stem, blocks and classifier")


def chain(config: ResNetConfig, variables: Mapping[str, Any], train: bool) -> list[Link]:
    """Return the network as its stem, its blocks and the rest, each a function of the previous output.

    Nothing is dropped, whatever the network's rates. Everything is computed in float32 or wider.

    Raises:
        UsageError: there is a layer between the stages.
    """
    require_blocks_only(config)
    dtype = jnp.promote_types(config.dtype, jnp.float32)
    config = dataclasses.replace(nothing_dropped(config), dtype=dtype, remat="none")
    listed = unstack(dict(variables))
    bare = dataclasses.replace(config, stage_sizes=(1,) * len(config.stage_sizes), branch_widths=())
    one = np.asarray(1.0, dtype)

    def of(*path: str) -> dict[str, Any]:
        found = {}
        for collection in ("params", "batch_stats"):
            node: Any = listed.get(collection, {})
            for part in path:
                node = node.get(part, {})
            found[collection] = node
        return found

    links = [Link(Kind("stem", bare, None, train), STEM, -1, of(STEM), one)]
    for blocks in plan_stages(config):
        for block in blocks:
            path = (stage_name(block.stage), block_name(block.index))
            kind = Kind("block", bare, without_place(block), train)
            links.append(Link(kind, "/".join(path), block.stage, of(*path), np.asarray(block.beta, dtype)))
    rest = {
        collection: {name: node for name, node in tree.items() if name != STEM and stage_index(name) is None}
        for collection, tree in of().items()
    }
    return [*links, Link(Kind("rest", bare, None, train), "rest", -1, rest, one)]


@functools.partial(jax.jit, static_argnums=0)
def forward(kind: Kind, variables: Any, beta: Any, x: Array) -> Array:
    """Return the output of a part."""
    return kind(variables, beta, x)


@functools.partial(jax.jit, static_argnums=0)
def push(kind: Kind, variables: Any, beta: Any, x: Array, tangent: Array) -> Array:
    """Return the product of a part's Jacobian at ``x`` with a vector."""
    return jax.jvp(functools.partial(kind, variables, beta), (x,), (tangent,))[1]


@functools.partial(jax.jit, static_argnums=0)
def pull(kind: Kind, variables: Any, beta: Any, x: Array, rows: Array) -> Array:
    """Return the products of vectors ``(rows, *y.shape)`` with a part's Jacobian at ``x``, ``(rows, *x.shape)``."""
    vjp = jax.vjp(functools.partial(kind, variables, beta), x)[1]
    return jax.lax.map(lambda row: vjp(row)[0], rows)


def without_place(block: BlockSpec) -> BlockSpec:
    """Return ``block`` without its place and its beta; what remains determines the compiled code."""
    return dataclasses.replace(block, stage=0, index=0, depth=0, beta=1.0, drop_rate=0.0)


def nothing_dropped(config: ResNetConfig) -> ResNetConfig:
    """Return ``config`` without dropout and stochastic depth."""
    return dataclasses.replace(config, dropout=0.0, head_dropout=0.0, drop_path=0.0)
