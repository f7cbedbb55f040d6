"""The three operations of a convolution in the forms that XLA compiles well for the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array

from resnet_jax.ops import conv_spec
from resnet_jax.ops.conv_spec import ConvSpec


class CpuForm(Protocol):
    """One of the three operations; ``devices`` is the number that the compiler may split the batch over."""

    def __call__(self, a: Array, b: Array, *, spec: ConvSpec, devices: int) -> Array:
        """Return the result of the operation on its two operands."""
        ...


def over_members(form: Callable[[Array, Array], Array], members: tuple[bool, bool]) -> Callable[[Array, Array], Array]:
    """Apply ``form`` to one member after the other: a grouped convolution is slower here than its groups."""
    if not any(members):
        return form

    def each(a: Array, b: Array) -> Array:
        k = a.shape[0] if members[0] else b.shape[0]
        return jnp.stack([form(a[i] if members[0] else a, b[i] if members[1] else b) for i in range(k)])

    return each


def forward(x: Array, w: Array, *, spec: ConvSpec, devices: int) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.forward`."""
    return conv_spec.forward(x, w, spec)


def input_gradient(g: Array, w: Array, *, spec: ConvSpec, devices: int) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.input_gradient`."""
    return conv_spec.input_gradient(g, w, spec)


def weight_gradient(x: Array, g: Array, *, spec: ConvSpec, devices: int) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.weight_gradient`."""
    return conv_spec.weight_gradient(x, g, spec)
