"""The choice between this package's primitives and plain ``lax``, made while a function is traced.

By default, :func:`~resnet_jax.ops.conv`, :func:`~resnet_jax.ops.moments`, :func:`~resnet_jax.ops.normalize` and
:func:`~resnet_jax.ops.max_pool` put their own primitives into a program (``conv``, ``channel_moments``, ...), each
lowered to what runs best on its platform. A tool that reads or patches programs does not know these: a quantizer that
patches ``lax.conv_general_dilated`` would find no convolution. Under :func:`reference_forms` the same functions emit
their definitions, and JAX differentiates those.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import jax

from resnet_jax.runtime.forms import FormsChoice

P = ParamSpec("P")
R = TypeVar("R")

#: JAX keeps this value per thread, and it is part of the key of every cache of traced and compiled functions.
_reference = jax.make_user_context(default_value=False)


@contextlib.contextmanager
def reference_forms() -> Iterator[None]:
    """Trace every operation of this package as plain ``lax`` inside the ``with`` block (or the decorated function).

    Use it for tools that read or patch programs: quantizers, exporters, FLOP counters. It matters where a function is
    *traced*: a jitted function that was traced outside is traced again inside, and vice versa. A jaxpr, or a pullback
    of :func:`jax.vjp`, stays as it was created. Other threads are not affected. The results equal those of the usual
    forms up to rounding; on the CPU, where the usual forms are faster, they take longer.

    A function passed to :func:`jax.export.export` needs no ``with``: a program for another machine always has the plain
    forms, because an exported module may not call code that was compiled for this one (the exception is
    :func:`~resnet_jax.ops.exported_for_this_machine`).

    >>> import jax.numpy as jnp
    >>> from resnet_jax.ops import conv
    >>> def layer(x, kernel):
    ...     return conv(x, kernel, strides=(1, 1), padding=(1, 1))
    >>> def primitives():
    ...     jaxpr = jax.make_jaxpr(layer)(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)))
    ...     return [equation.primitive.name for equation in jaxpr.eqns]
    >>> with reference_forms():
    ...     print(primitives())
    ['conv_general_dilated']
    >>> primitives()
    ['conv']
    """
    with _reference(True):
        yield


def in_forms(forms: FormsChoice, function: Callable[P, R]) -> Callable[P, R]:
    """Return a function as it is traced in these forms: unchanged, or under :func:`reference_forms`."""
    if forms == "auto":
        return function

    @functools.wraps(function)
    def plain(*args: P.args, **kwargs: P.kwargs) -> R:
        with reference_forms():
            return function(*args, **kwargs)

    return plain


def plain_lax_wanted() -> bool:
    """Return whether tracing currently happens under :func:`reference_forms`."""
    return _reference.value
