"""Convolution together with what follows it in a network for inference: a bias, the addition of a skip, a ReLU.

It is defined as these operations in sequence, so it supports differentiation and batching and runs on accelerators,
where the compiler fuses them anyway. XLA's CPU compiler cannot fuse anything with a compiled convolution; there each of
them would be a pass over the output in memory, a tenth of the time of ResNet-50. On the CPU, in float32 and where no
compiler splits the arrays, one compiled operation therefore does everything while the sums are in registers
(``native/gemm.h``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from resnet_jax.ops import native
from resnet_jax.ops.conv import conv
from resnet_jax.ops.lowering import own_forms_wanted, vary_alike
from resnet_jax.ops.reference import plain_lax_wanted


def finished_conv(
    x: Float[Array, "n *spatial c_in"],
    kernel: Float[Array, "*window c_in_per_group c_out"],
    bias: Float[Array, " c_out"] | None = None,
    skip: Float[Array, "n *out c_out"] | None = None,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] | None = None,
    groups: int = 1,
    relu: bool = False,
) -> Float[Array, "n *out c_out"]:
    """Return ``relu(skip + (conv(x, kernel) + bias))``, leaving out what is None or False; see :func:`.conv`.

    The compiled form may round differently from the compiled convolution of training, because it may sum in another
    order.

    Args:
        x: as for :func:`.conv`.
        kernel: as for :func:`.conv`.
        bias: one number per channel, with the dtype of ``x``.
        skip: an array with the shape of the result.
        strides: as for :func:`.conv`.
        padding: as for :func:`.conv`.
        dilation: as for :func:`.conv`.
        groups: as for :func:`.conv`.
        relu: whether to apply a ReLU.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.ones((1, 2, 2, 1)), jnp.asarray([[[[1.0, -1.0]]]])
    >>> finished_conv(x, kernel, jnp.asarray([2.0, 0.5]), strides=(1, 1), padding=(0, 0), relu=True)[0, 0, 0].tolist()
    [3.0, 0.0]
    """
    more = [operand for operand in (bias, skip) if operand is not None]
    form = plain_finished if plain_lax_wanted() else finished_p.bind
    return form(
        *vary_alike(x, kernel, *more), strides=tuple(strides), padding=tuple(padding),
        dilation=tuple(dilation or (1,) * len(strides)), groups=groups, bias=bias is not None, relu=relu,
    )  # fmt: skip


def plain_finished(x: Array, kernel: Array, *more: Array, bias: bool, relu: bool, **window: object) -> Array:
    """Return the definition of :func:`finished_conv`; ``more`` is the bias, if any, and the skip."""
    y = conv(x, kernel, **window)  # pyright: ignore[reportArgumentType]
    if bias:
        y = y + more[0].reshape((1,) * (y.ndim - 1) + more[0].shape)
    if len(more) > bias:
        y = more[-1] + y
    return jax.nn.relu(y) if relu else y


finished_p = Primitive("conv_finished")


@partial(jax.jit, static_argnames=("strides", "padding", "dilation", "groups", "bias", "relu"))
def _compiled(*operands: Array, **parameters: object) -> Array:
    return finished_p.bind(*operands, **parameters)


@finished_p.def_impl
def _run(*operands: Array, **parameters: object) -> Array:
    with jax.disable_jit(False):
        return _compiled(*operands, **parameters)


@finished_p.def_abstract_eval
def _shape(*operands, **parameters):
    return jax.make_jaxpr(partial(plain_finished, **parameters))(*operands).out_avals[0]


def _lower_on_cpu(ctx, *operands, **parameters):
    own = own_forms_wanted(ctx) and native.takes_finished(ctx.avals_in[0].ndim - 2, **parameters)
    form = native.finished if own else plain_finished
    return mlir.lower_fun(partial(form, **parameters), multiple_results=False)(ctx, *operands)


def _lower(ctx, *operands, **parameters):
    return mlir.lower_fun(partial(plain_finished, **parameters), multiple_results=False)(ctx, *operands)


def _jvp(primals, tangents, **parameters):
    tangents = tuple(map(ad.instantiate_zeros, tangents))
    return jax.jvp(partial(plain_finished, **parameters), primals, tangents)


def _batch(operands, axes, **parameters):
    return jax.vmap(partial(plain_finished, **parameters), axes)(*operands), 0


mlir.register_lowering(finished_p, _lower)
mlir.register_lowering(finished_p, _lower_on_cpu, platform="cpu")
ad.primitive_jvps[finished_p] = _jvp
batching.primitive_batchers[finished_p] = _batch
