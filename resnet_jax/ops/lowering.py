"""Shared code of the primitives with their own forms for the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array

from resnet_jax.ops import native
from resnet_jax.ops.exported import keeps_own_forms


def has_own_forms(aval: Any) -> bool:
    """Whether the forms for the CPU support an array: of real floats, not empty, of known shape, not split by type."""
    known = all(isinstance(size, int) and size > 0 for size in aval.shape)
    return known and jnp.issubdtype(aval.dtype, jnp.floating) and not any(aval.sharding.spec)


def devices_of_the_compiler(context: Any) -> int:
    """Return over how many devices the compiler may still split an array: 1 inside ``shard_map`` over all axes."""
    if isinstance(context, mlir.ShardingContext):
        return context.num_devices
    if isinstance(context, mlir.SPMDAxisContext):
        sizes = dict(context.mesh.shape)
        return math.prod(size for axis, size in sizes.items() if axis not in context.manual_axes)
    return 1


def own_forms_wanted(ctx: Any) -> bool:
    """Whether compiled forms may be used in this lowering: float32, not split, and not for another machine."""
    context = ctx.module_context
    here = keeps_own_forms() or not context.lowering_parameters.for_export
    arrays = (*ctx.avals_in, *ctx.avals_out)
    return (
        here
        and devices_of_the_compiler(context.axis_context) == 1
        and all(has_own_forms(aval) and aval.dtype == jnp.float32 for aval in arrays)
    )


def vary_alike(*operands: Array) -> tuple[Array, ...]:
    """Inside ``shard_map``, mark a replicated operand as varying if another one is, as ``lax`` functions do."""
    varying = [jax.typeof(a).mat.varying for a in operands]
    every = frozenset().union(*varying)
    return tuple(
        a if axes == every else lax.pcast(a, tuple(every - axes), to="varying")
        for a, axes in zip(operands, varying, strict=True)
    )


def leading_axis_primitive(
    name: str,
    plain: Callable[..., Sequence[Array]],
    compiled: Callable[..., Sequence[Array]] | None = None,
    on_gpu: Callable[..., Sequence[Array]] | None = None,
    on_tpu: Callable[..., Sequence[Array]] | None = None,
) -> Primitive:
    """Create a primitive over arrays with the same leading axis that does nothing across it.

    It has everything but its derivatives. An axis of ``vmap`` joins the leading axis.

    Args:
        name: name of the primitive.
        plain: its definition in JAX, ``(*operands, **parameters)``.
        compiled: its form on the CPU, in float32 and where no compiler splits the arrays.
        on_gpu: its form on a GPU, for arrays of known shape that no compiler splits.
        on_tpu: the same for a TPU.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    @cache
    def jitted(parameters):
        return jax.jit(partial(primitive.bind, **dict(parameters)))

    @primitive.def_impl
    def run(*operands, **parameters):
        with jax.disable_jit(False):
            return jitted(tuple(parameters.items()))(*operands)

    @primitive.def_abstract_eval
    @cache
    def shape(*operands, **parameters):
        return jax.make_jaxpr(partial(plain, **parameters))(*operands).out_avals

    def lower_on_cpu(ctx, *operands, **parameters):
        form = compiled if compiled is not None and own_forms_wanted(ctx) and native.available() else plain
        return mlir.lower_fun(form, multiple_results=True)(ctx, *operands, **parameters)

    def lower_on_accelerator(ctx, *operands, own_form, **parameters):
        own = devices_of_the_compiler(ctx.module_context.axis_context) == 1
        own = own and all(has_own_forms(aval) for aval in (*ctx.avals_in, *ctx.avals_out))
        form = own_form if own and own_form is not None else plain
        return mlir.lower_fun(form, multiple_results=True)(ctx, *operands, **parameters)

    def batch(operands, axes, **parameters):
        size = next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)
        operands = [
            jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
            for a, axis in zip(operands, axes, strict=True)
        ]
        leading = operands[0].shape[1]
        outs = primitive.bind(*(a.reshape(size * leading, *a.shape[2:]) for a in operands), **parameters)
        return [out.reshape(size, leading, *out.shape[1:]) for out in outs], [0] * len(outs)

    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=True))
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    for platform, own_form in (("cuda", on_gpu), ("rocm", on_gpu), ("tpu", on_tpu)):
        mlir.register_lowering(primitive, partial(lower_on_accelerator, own_form=own_form), platform=platform)
    batching.primitive_batchers[primitive] = batch
    return primitive
