"""What a hook reads from a block in the forward pass: moments, dead units, skip and branch."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from resnet_jax.instrument.hooks import Hook
from resnet_jax.models.collections import SIGNALS
from resnet_jax.ops import at_least_float32, squared_norm

#: The names that :func:`forward_signals` writes for a block.
FORWARD = (
    "elements", "act_mean", "act_var", "act_norm", "zero_share", "dead_units", "skip_norm", "branch_norm", "inner",
)  # fmt: skip


def forward_signals() -> Hook:
    """Return a hook that writes :data:`FORWARD` into the collection of signals.

    ``act_*`` refer to the block's output. ``zero_share`` and ``dead_units`` refer to the activations, which are the
    output in post-activation order and the output of the pre-activation otherwise: the share of all values that are
    exactly 0, and of channels that are 0 at every position of every image. ``inner`` is the inner product of skip and
    branch, over the whole batch like the norms.
    """
    halves: dict[tuple[str, ...], dict[str, Array]] = {}

    def at(block: nn.Module, point: str, x: Any) -> Any:
        if not block.is_mutable_collection(SIGNALS):
            return x
        if point == "input":
            halves[block.path] = {}
        elif point in ("skip", "branch"):
            halves[block.path][point] = x
        elif point == "activated":
            _write(block, _dead(x))
        elif point == "output":
            _write(block, _moments(x))
            if not block.has_variable(SIGNALS, "dead_units"):
                _write(block, _dead(x))
            _write(block, _meeting(halves.pop(block.path)))
        return x

    return at


def _write(block: nn.Module, values: dict[str, Array]) -> None:
    for name, value in values.items():
        block.put_variable(SIGNALS, name, value)


def _moments(x: Array) -> dict[str, Array]:
    x = x.astype(at_least_float32(x.dtype))
    mean = jnp.mean(x)
    return {
        "elements": jnp.asarray(x.size, jnp.int32),
        "act_mean": mean,
        "act_var": jnp.mean(jnp.square(x - mean)),
        "act_norm": jnp.sqrt(squared_norm(x)),
    }


def _dead(x: Array) -> dict[str, Array]:
    alive = x != 0
    wide = at_least_float32(x.dtype)
    units = jnp.any(alive, axis=tuple(range(x.ndim - 1)))
    return {"zero_share": 1 - jnp.mean(alive, dtype=wide), "dead_units": 1 - jnp.mean(units, dtype=wide)}


def _meeting(halves: dict[str, Array]) -> dict[str, Array]:
    """Return norms of what meets at the sum, and their inner product if both exist."""
    values = {f"{name}_norm": jnp.sqrt(squared_norm(x)) for name, x in halves.items()}
    if len(halves) == 2:
        wide = [x.astype(at_least_float32(x.dtype)) for x in halves.values()]
        values["inner"] = jnp.sum(wide[0] * wide[1])
    return values
