"""Random rows of a batch that is cut over devices: each device takes its own of those that are drawn for the whole.

So dropout and stochastic depth drop the same of every example, whatever number of devices a batch is cut over. With
JAX's partitionable random bits a compiler that fuses makes only the rows that are taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax
from jax import lax
from jaxtyping import Array

#: The mapped axis that cuts the examples. JAX keeps it for each thread, and in the key of its caches.
_cut_over = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def batch_cut_over(axis_name: str) -> Iterator[None]:
    """While a function is traced, let arrays be parts of a batch that is cut in equal parts over a mapped axis."""
    with _cut_over(axis_name):
        yield


def draw_rows(draw: Callable[[int], Array], examples: int) -> Array:
    """Return ``draw(examples)``, or of a batch that is cut this device's rows of what is drawn for all of it.

    Args:
        draw: rows -> random values (rows, ...).
        examples: rows here.

    >>> draw_rows(lambda rows: jax.random.bits(jax.random.key(0), (rows, 2)), 3).shape
    (3, 2)
    """
    axis_name = _cut_over.value
    if axis_name is None:
        return draw(examples)
    whole = draw(examples * lax.axis_size(axis_name))
    return lax.dynamic_slice_in_dim(whole, lax.axis_index(axis_name) * examples, examples)
