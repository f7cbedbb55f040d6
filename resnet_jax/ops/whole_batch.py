"""Random rows of a batch that is sharded over devices: each device takes its own rows of a draw for the whole batch.

Dropout and stochastic depth therefore drop the same for every example, however many devices share the batch. With JAX's
partitionable random bits, a fusing compiler generates only the rows that are used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax
from jax import lax
from jaxtyping import Array

#: The mapped axis that shards the examples. JAX keeps it per thread, and in the key of its caches.
_cut_over = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def batch_cut_over(axis_name: str) -> Iterator[None]:
    """While a function is traced, treat arrays as equal parts of a batch that is sharded over a mapped axis."""
    with _cut_over(axis_name):
        yield


def draw_rows(draw: Callable[[int], Array], examples: int) -> Array:
    """Return ``draw(examples)``, or for a sharded batch this device's rows of a draw for the whole batch.

    Args:
        draw: number of rows -> random values (rows, ...).
        examples: number of rows on this device.

    >>> draw_rows(lambda rows: jax.random.bits(jax.random.key(0), (rows, 2)), 3).shape
    (3, 2)
    """
    axis_name = _cut_over.value
    if axis_name is None:
        return draw(examples)
    whole = draw(examples * lax.axis_size(axis_name))
    return lax.dynamic_slice_in_dim(whole, lax.axis_index(axis_name) * examples, examples)
