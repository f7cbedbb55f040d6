"""Instruments for a network that knows nothing about them: observe and change what flows through every block.

Flax allows a function between a module and its caller. Here there is one at every residual block and its parts, which
calls *hooks*, functions ``(block, point, x) -> x``, with the value at each point:

============  =========================================================================================
point         value
============  =========================================================================================
``input``     input of the block
``preact``    input of its pre-activation, if it has one
``activated`` output of its pre-activation
``branch_in`` input of its branch
``branch``    output of its branch, which is added
``skip_in``   input of its skip
``seen``      second argument of the skip: the input of the branch, which a projection in pre-activation order uses
``skip``      output of its skip
``output``    output of the block
============  =========================================================================================

A hook reads its own numbers for each block from a variable collection (:mod:`resnet_jax.models.collections`) and writes
into one. Collections have the layout of the parameters, stacked where the blocks run in a loop, so hooks work under
``jit``, ``nn.scan`` and ``nn.remat`` alike. A network without hooks is compiled as if there were none.

Hooks also work in your own Linen blocks: see :class:`BlockNames`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.models.block import Block
from resnet_jax.models.collections import PROBES, SIGNALS
from resnet_jax.models.layout import listed_paths
from resnet_jax.models.paths import stage_index
from resnet_jax.ops.annotations import AnyArray

Hook = Callable[[nn.Module, str, Array], Array]


@dataclasses.dataclass(frozen=True)
class BlockNames:
    """Which modules of a network are its blocks, and the names of their parts.

    The defaults are those of this library. A block of your own needs only a class. If its branch and its skip are
    submodules with the names given here, they are measured too.

    Attributes:
        block: class of the blocks.
        branch: name within a block of F, which is added.
        skip: name within a block of the skip path, including the identity.
        preact: name within a block of a norm and activation before branch and skip part.

    >>> class MyBlock(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         y = nn.Dense(4, name="branch")(nn.relu(x))
    ...         return Identity(name="shortcut")(x) + y
    >>> class MyNet(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, *, train):
    ...         for i in range(3):
    ...             x = MyBlock(name=f"b{i}")(x)
    ...         return x
    >>> net, x = MyNet(), jnp.ones((2, 4))
    >>> chart = index_blocks(lambda mutable: net.apply(net.init(jax.random.key(0), x, train=True), x, train=True,
    ...     mutable=mutable), BlockNames(MyBlock), probe("input", "branch"))
    >>> chart.names, chart.points
    (('b0', 'b1', 'b2'), ('branch', 'input'))
    """

    block: type[nn.Module] = Block
    branch: str = "branch"
    skip: str = "shortcut"
    preact: str = "preact"


class Identity(nn.Module):
    """Returns its input: an identity skip with a name."""

    def __call__(self, x: Array) -> Array:
        """Return ``x``."""
        return x


@contextlib.contextmanager
def instrumented(anatomy: BlockNames, *hooks: Hook) -> Iterator[None]:
    """Within this context, modules call ``hooks``, in order, whenever they are called (traced)."""
    parts = {
        anatomy.preact: (("preact",), "activated"),
        anatomy.branch: (("branch_in",), "branch"),
        anatomy.skip: (("skip_in", "seen"), "skip"),
    }

    def through(block: nn.Module, point: str, x: Any) -> Any:
        for hook in hooks:
            x = hook(block, point, x)
        return x

    def intercept(call, args, kwargs, context):
        module, parent = context.module, context.module.parent
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, anatomy.block):
            block, points, out = module, ("input",), "output"
        elif isinstance(parent, anatomy.block) and module.name in parts:
            block, (points, out) = parent, parts[module.name]
        else:
            return call(*args, **kwargs)
        args = (*(through(block, point, x) for point, x in zip(points, args, strict=False)), *args[len(points) :])
        return through(block, out, call(*args, **kwargs))

    with nn.intercept_methods(intercept):
        yield


def probe(*points: str) -> Hook:
    """Return a hook that taps the gradient at some points, if the variables have :data:`PROBES`.

    The gradient with respect to that collection is the squared norm of the gradient at that point.
    """

    def at(block: nn.Module, point: str, x: Array) -> Array:
        if point not in points:
            return x
        if block.has_variable(PROBES, point):
            return ops.tap(x, block.get_variable(PROBES, point))
        if block.is_mutable_collection(PROBES) and not block.is_initializing():
            block.put_variable(PROBES, point, jnp.zeros((), jnp.float32))
        return x

    return at


@dataclasses.dataclass(frozen=True)
class BlockIndex:
    """The blocks of a network in depth order, and where a collection keeps their numbers.

    Attributes:
        paths: paths of the modules, in the order of their calls.
        counts: number of blocks behind each; None for a block that stands alone.
        shapes: shape of each module's input, without the batch axis.
        points: points at which the hooks keep a number for a block.
        zeros: a collection of float32 zeros for them.
    """

    paths: tuple[tuple[str, ...], ...]
    counts: tuple[int | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    points: tuple[str, ...]
    zeros: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Path of every block, '/'-joined, in the listed layout."""
        names = []
        for path, count in zip(self.paths, self.counts, strict=True):
            name = "/".join(path)
            if count is None:
                names.append(name)
            elif len(path) > 1 and stage_index(path[-2]) is not None:
                names += listed_paths(name, count)
            else:
                names += [f"{name}[{index}]" for index in range(count)]
        return tuple(names)

    @property
    def stages(self) -> np.ndarray:
        """Stage of every block, from 0, int (blocks,): by its path, or in other networks by the shape of its input."""
        stages: list[int] = []
        last, stage = None, -1
        for path, count, shape in zip(self.paths, self.counts, self.shapes, strict=True):
            above = path[-2] if len(path) > 1 else ""
            key = above if stage_index(above) is not None else (path[:-1], shape)
            stage += key != last
            last = key
            stages += [stage] * (count or 1)
        return np.asarray(stages)

    def place(self, values: Mapping[str, Float[AnyArray, " blocks"]]) -> dict[str, Any]:
        """Return a collection that has, for each name, its number for every block: the inverse of :meth:`rows`."""
        tree: dict[str, Any] = {}
        start = 0
        for path, count in zip(self.paths, self.counts, strict=True):
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            for name, numbers in values.items():
                node[name] = numbers[start] if count is None else numbers[start : start + count]
            start += count or 1
        return tree

    def rows(self, collection: Mapping[str, Any], point: str) -> Shaped[Array, "blocks ..."]:
        """Return the values in ``collection`` at ``point`` of every block, in depth order; NaN where there is none."""
        rows = []
        for path, count in zip(self.paths, self.counts, strict=True):
            node: Any = collection
            for part in (*path, point):
                node = node.get(part) if isinstance(node, Mapping) else None
            if node is None:
                node = jnp.full((count or 1,), jnp.nan, jnp.float32)
            elif count is None:
                node = node[None]
            rows.append(node)
        return jnp.concatenate(rows)


def index_blocks(apply: Callable[[list[str]], Any], anatomy: BlockNames, *hooks: Hook) -> BlockIndex:
    """Return the chart of a network's blocks without computing anything.

    Args:
        apply: ``(mutable) -> (out, variables)``: applies the network with these collections mutable.
        anatomy: what a block is.
        hooks: the hooks for whose numbers the chart has zeros.

    Raises:
        UsageError: the network has no such blocks, or runs them in a loop that does not carry the collections.
    """
    seen: dict[tuple[str, ...], tuple[int, ...]] = {}

    def note(block: nn.Module, point: str, x: Array) -> Array:
        if point == "input":
            seen.setdefault(block.path, x.shape[1:])
            if block.is_mutable_collection(SIGNALS):
                block.put_variable(SIGNALS, "here", jnp.zeros((), jnp.float32))
        return x

    def measure():
        with instrumented(anatomy, note, *hooks):
            return apply([PROBES, SIGNALS, "batch_stats"])[1]

    found = jax.eval_shape(measure)
    if not seen:
        raise UsageError(
            f"the network called no {anatomy.block.__name__}: name the class of its residual blocks: "
            "BlockNames(block=...)"
        )
    counts = []
    for path in seen:
        node: Any = found.get(SIGNALS, {})
        for part in (*path, "here"):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is None or len(node.shape) > 1:
            raise UsageError(
                f"the blocks at {'/'.join(path)} run in a loop that does not carry their numbers: give that nn.scan "
                "variable_axes={**resnet_jax.depth.BLOCK_AXES, ...}"
            )
        counts.append(node.shape[0] if node.shape else None)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(found.get(PROBES, {})))
    leaves = jax.tree_util.tree_flatten_with_path(zeros)[0]
    points = sorted({str(path[-1].key) for path, _ in leaves})
    return BlockIndex(tuple(seen), tuple(counts), tuple(seen.values()), tuple(points), zeros)
