"""The definition of a convolution apart from its arrays, and its three operations in terms of ``lax``.

A convolution is bilinear in its input ``x`` and its kernel ``w``. With the output's cotangent ``g`` there are three
operations. Each is bilinear again, and each derivative of one of them is another one:

========================  ==================  ===================================
operation                 of                  gives
========================  ==================  ===================================
:func:`forward`           ``x``, ``w``        the output, shaped like ``g``
:func:`input_gradient`    ``g``, ``w``        what ``w`` sends back to ``x``
:func:`weight_gradient`   ``x``, ``g``        what ``x`` and ``g`` give for ``w``
========================  ==================  ===================================

The gradients here are ``lax``'s own transposes, so they are by construction what ``jax.grad`` of
``lax.conv_general_dilated`` emits: the forms that cuDNN and the TPU compiler recognize.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jax import lax
from jaxtyping import Array

_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def channels_last(dims: int) -> tuple[str, str, str]:
    """Return the dimension numbers of ``(N, *spatial, C)``, ``(*window, C, out)`` and the output.

    >>> channels_last(2)
    ('NHWC', 'HWIO', 'NHWC')
    """
    spatial = _SPATIAL[dims]
    return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"


@dataclass(frozen=True)
class ConvSpec:
    """The numbers that define a convolution; tuples have one entry per spatial dimension.

    ``size`` and ``window`` are the extents of the input and of the kernel, which a gradient cannot infer from its
    operands. ``precision`` is JAX's ``default_matmul_precision`` at the time of the call.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    precision: str | None = None

    @property
    def dims(self) -> int:
        """The number of spatial dimensions."""
        return len(self.size)


def forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    """Return the output, ``(N, *out, c_out)``, for ``x``, ``(N, *size, c_in)``, and ``w``, ``(*window, c_in/g,
    c_out)``.

    >>> import jax.numpy as jnp
    >>> spec = ConvSpec(size=(8, 8), window=(3, 3), strides=(2, 2), padding=(1, 1), dilation=(1, 1))
    >>> forward(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 16)), spec).shape
    (1, 4, 4, 16)
    """
    return lax.conv_general_dilated(
        x,
        w,
        window_strides=spec.strides,
        padding=[(p, p) for p in spec.padding],
        rhs_dilation=spec.dilation,
        dimension_numbers=channels_last(spec.dims),
        feature_group_count=spec.groups,
        precision=spec.precision,
    )


def input_gradient(g: Array, w: Array, spec: ConvSpec) -> Array:
    """Return the transpose of ``x -> forward(x, w)`` at ``g``, ``(N, *out, c_out)``; it has the shape of ``x``."""
    x = jax.typeof(g).update(shape=(g.shape[0], *spec.size, w.shape[-2] * spec.groups))
    return jax.linear_transpose(lambda x: forward(x, w, spec), x)(g)[0]


def weight_gradient(x: Array, g: Array, spec: ConvSpec) -> Array:
    """Return the transpose of ``w -> forward(x, w)`` at ``g``, ``(N, *out, c_out)``; it has the shape of ``w``."""
    w = jax.typeof(g).update(shape=(*spec.window, x.shape[-1] // spec.groups, g.shape[-1]))
    return jax.linear_transpose(lambda w: forward(x, w, spec), w)(g)[0]
