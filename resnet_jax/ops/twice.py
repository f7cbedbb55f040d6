"""An array that is used twice, such as the input of a residual block, whose two gradients are added in one pass.

By default, JAX adds the gradients of an array's uses with a separate addition and continues from there, which XLA's CPU
compiler cannot fuse with a compiled convolution. :func:`twice` states that they belong together: its transpose is the
compiled pass of :func:`~resnet_jax.ops.probe.fork`, which adds the two and masks them by the ReLU that produced the
array. Everywhere else it is the addition and the comparison, which a compiler fuses. The numbers are the same, bit for
bit.

The three operations are linear or have linear tangents, and are closed under differentiation and batching.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad
from jaxtyping import Array, Float

from resnet_jax.ops.lowering import leading_axis_primitive, vary_alike
from resnet_jax.ops.probe import join_p, relu_p
from resnet_jax.ops.reference import plain_lax_wanted


def twice(x: Float[Array, "*shape"], *, relu: bool = False) -> tuple[Array, Array]:
    """Return ``x``, or its positive part, twice.

    Args:
        x: any array; without axes, or if plain ``lax`` is requested, its gradients are not treated specially.
        relu: take the positive part.

    >>> def loss(x):
    ...     skip, branch = twice(x, relu=True)
    ...     return jnp.sum(skip + jnp.array([2.0, 3.0]) * branch)
    >>> jax.grad(loss)(jnp.array([1.0, -1.0])).tolist()
    [3.0, 0.0]
    """
    if plain_lax_wanted() or jnp.ndim(x) == 0:
        y = jax.nn.relu(x) if relu else x
        return y, y
    first, second = (relu_twice_p if relu else twice_p).bind(x)
    return first, second


def _plain_twice(x: Array) -> tuple[Array, Array]:
    return x, x


def _plain_masked_twice(dx: Array, y: Array) -> tuple[Array, Array]:
    masked = jnp.where(y > 0, dx, jnp.zeros_like(dx))
    return masked, masked


def _plain_relu_twice(x: Array) -> tuple[Array, Array]:
    (y,) = relu_p.bind(x)
    return y, y


twice_p = leading_axis_primitive("twice", _plain_twice)
masked_twice_p = leading_axis_primitive("masked_twice", _plain_masked_twice)
relu_twice_p = leading_axis_primitive("relu_twice", _plain_relu_twice, on_gpu=_plain_relu_twice)


def _zeros(outs: Any) -> list[Any]:
    return [ad.Zero(jax.typeof(out)) for out in outs]


def _twice_jvp(primals, tangents):
    outs, (dx,) = twice_p.bind(*primals), tangents
    return outs, _zeros(outs) if isinstance(dx, ad.Zero) else twice_p.bind(dx)


def _relu_twice_jvp(primals, tangents):
    outs, (dx,) = relu_twice_p.bind(*primals), tangents
    return outs, _zeros(outs) if isinstance(dx, ad.Zero) else masked_twice_p.bind(*vary_alike(dx, outs[0]))


def _masked_twice_jvp(primals, tangents):
    outs, (ddx, _) = masked_twice_p.bind(*primals), tangents
    return outs, _zeros(outs) if isinstance(ddx, ad.Zero) else masked_twice_p.bind(ddx, primals[1])


def _joined(cotangents: Any, *mask: Array) -> Array | None:
    """Add the existing cotangents, with zeros where the mask is not positive."""
    there = [c for c in cotangents if not isinstance(c, ad.Zero)]
    if len(there) == 2:
        first, second = there
        return join_p.bind(*vary_alike(second, first, *mask))[0]  # the branch's is a new array
    if there and mask:
        return jnp.where(mask[0] > 0, there[0], jnp.zeros_like(there[0]))
    return there[0] if there else None


ad.primitive_jvps[twice_p] = _twice_jvp
ad.primitive_jvps[relu_twice_p] = _relu_twice_jvp
ad.primitive_jvps[masked_twice_p] = _masked_twice_jvp
ad.primitive_transposes[twice_p] = lambda cotangents, x: [_joined(cotangents)]
ad.primitive_transposes[masked_twice_p] = lambda cotangents, dx, y: [_joined(cotangents, y), None]
