"""A network as a table: one row per layer, with its output shape, parameters and multiply-adds.

The table resembles Keras' ``model.summary()`` and torchinfo. The sums of the rows equal
:func:`resnet_jax.models.count`, however rows are grouped. Nothing is allocated and nothing runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict

from resnet_jax.models import paths
from resnet_jax.models.attention import ChannelConv, Dense
from resnet_jax.models.count import Counts, shapes_of_blocks
from resnet_jax.models.layers import Conv, Head
from resnet_jax.models.towers import TwoTowers

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer, or several layers together.

    Attributes:
        path: path of its parameters, without the collection; "" is the network itself.
        kind: its class, such as ``Conv``.
        shape: output shape for one example, without the batch axis; () if it has no output of its own.
        params: trainable scalars.
        batch_stats: running means and variances.
        macs: multiply-adds of convolutions and linear layers, for one example.
        block: depth index of its block, from 0; None outside blocks.
        calls: how often it is computed for one example; more than once for layers that several maps share.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    params: int
    batch_stats: int
    macs: int
    block: int | None = None
    calls: int = 1


@dataclasses.dataclass
class _Seen:
    kind: str
    shape: tuple[int, ...]
    macs: int = 0
    calls: int = 1


def summarize(model: nn.Module, input_shape: Sequence[int], depth: int = 3) -> list[Row]:
    """Return the rows of a network in the order of computation.

    Args:
        model: the network.
        input_shape: shape of one example, without the batch axis.
        depth: 3 for every layer, 2 for every block and the layers outside blocks, 1 for stem, stages and head.

    >>> from resnet_jax.models.zoo import create_model
    >>> rows = summarize(create_model("resnet20_cifar"), (32, 32, 3), depth=1)
    >>> [(row.path, row.shape, row.params) for row in rows if row.path != "stage2"]
    [('stem', (32, 32, 16), 464), ('stage1', (32, 32, 16), 14016), ('stage3', (8, 8, 64), 203520), ('head', (10,), 650)]
    """
    if isinstance(model, TwoTowers):
        parts = zip(model.towers.items(), (input_shape, model.other_shape), strict=True)
        rows = [
            dataclasses.replace(row, path=f"{name}/{row.path}" if row.path else name)
            for (name, tower), shape in parts
            for row in summarize(tower, shape, depth)
        ]
        return [*rows, Row(paths.LOG_SCALE, "parameter", (), 1, 0, 0)]
    seen: dict[Path, _Seen] = {}

    def look(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = context.module.path
        first = seen.setdefault(path, _Seen(type(context.module).__name__, (), calls=0))  # in call order
        out = call(*args, **kwargs)
        first.calls += 1
        first.shape = first.shape or _shape(out)
        if isinstance(context.module, (Conv, Head, Dense, ChannelConv)):
            first.macs += math.prod(out.shape[1:-1]) * math.prod(context.module.variables["params"]["kernel"].shape)
        return out

    with nn.intercept_methods(look):
        shapes, repeat = shapes_of_blocks(model, input_shape)
    sizes = [_by_module(shapes.get(collection, {})) for collection in ("params", "batch_stats")]
    layers = list(_layers(seen, repeat, *sizes))
    return _together(layers, depth, dict(_repeated(seen, repeat)))


def total(rows: Sequence[Row]) -> Counts:
    """Return the sums of the rows, which equal what :mod:`resnet_jax.models.count` counts."""
    return Counts(*(sum(getattr(row, name) for row in rows) for name in ("params", "batch_stats", "macs")))


def _shape(out: Any) -> tuple[int, ...]:
    leaves = [leaf for leaf in jax.tree.leaves(out) if getattr(leaf, "ndim", 0)]
    return tuple(leaves[0].shape[1:]) if len(leaves) == 1 else ()


def _by_module(tree: Any) -> dict[Path, int]:
    """Return the number of scalars that each module owns itself."""
    found: dict[Path, int] = {}
    for path, leaf in cast("dict[Path, Any]", flatten_dict(tree)).items():
        found[path[:-1]] = found.get(path[:-1], 0) + math.prod(leaf.shape)
    return found


def _repeated(seen: dict[Path, _Seen], repeat: Callable[[Path], int]) -> Iterator[tuple[Path, _Seen]]:
    """Yield the recorded layers, and after the second block of a stage the blocks that equal it."""
    items, at = list(seen.items()), 0
    while at < len(items):
        path, each = items[at]
        blocks = repeat(path)
        if blocks == 1:
            yield path, each
            at += 1
            continue
        stage, second = path[0], path[1]
        of_block = [item for item in items[at:] if item[0][:2] == (stage, second)]
        for index in range(blocks):
            for path, each in of_block:
                yield (stage, paths.block_name(1 + index), *path[2:]), each
        at += len(of_block)


def _layers(
    seen: dict[Path, _Seen], repeat: Callable[[Path], int], params: dict[Path, int], stats: dict[Path, int]
) -> Iterator[tuple[Path, Row]]:
    """Yield a row for every module with parameters, statistics or multiply-adds of its own."""
    left = dict.fromkeys((*params, *stats))
    for path, each in _repeated(seen, repeat):
        if path in left or each.macs:
            left.pop(path, None)
            yield path, _row(path, each, params, stats)
    for path in left:  # scalars of no called layer, such as those of Fixup
        yield path, _row(path, _Seen("parameter", ()), params, stats)


def _row(path: Path, each: _Seen, params: dict[Path, int], stats: dict[Path, int]) -> Row:
    numbers = params.get(path, 0), stats.get(path, 0), each.macs
    return Row("/".join(path), each.kind, each.shape, *numbers, calls=max(each.calls, 1))


def _together(layers: Sequence[tuple[Path, Row]], depth: int, seen: dict[Path, _Seen]) -> list[Row]:
    """Return the rows grouped into blocks or stages, each with its depth index; rows of equal paths are summed."""
    blocks: dict[Path, int] = {}
    for path in seen:
        place = paths.parse(path)
        if place.block is not None and path[:2] not in blocks:
            blocks[path[:2]] = len(blocks)
    rows: dict[Path, Row] = {}
    for path, row in layers:
        place = paths.parse(path)
        cut = path if depth > 2 else path[:2] if depth == 2 and place.block is not None else path[:1]
        own = seen.get(cut) or seen.get(path[:2])  # for a stage, its last block
        block = blocks.get(cut[:2])
        if cut not in rows:
            kind, shape = (row.kind, row.shape) if cut == path else (own.kind, own.shape) if own else ("", row.shape)
            rows[cut] = dataclasses.replace(row, path="/".join(cut), kind=kind, shape=shape, block=block)
            continue
        before = rows[cut]
        rows[cut] = dataclasses.replace(
            before,
            shape=own.shape if own else row.shape or before.shape,
            params=before.params + row.params,
            batch_stats=before.batch_stats + row.batch_stats,
            macs=before.macs + row.macs,
            calls=1,
        )
    return list(rows.values())
