"""Convolution as a family of three JAX primitives that is closed under differentiation and batching.

:mod:`~resnet_jax.ops.conv_spec` defines the three operations. As primitives they differentiate into each other (so
``jvp``, ``vjp`` and their compositions of any order stay in the family), and each is lowered for the platform where it
runs: on the CPU as :mod:`~resnet_jax.ops.conv_cpu` describes, on a TPU with groups as in
:mod:`~resnet_jax.ops.conv_tpu`, and everything else as ``lax``'s own convolution. No transformation sees the
difference, and you need not choose.

There are two kinds of batching. An axis over the input alone joins ``N``. If there is also an axis over the kernel (a
population: ``vmap`` over seeds), it becomes a leading *member* axis of the operands that have it; ``members`` says
which of the two do, and the result has it if any does. The grouped convolution that ``lax`` makes of it suits a GPU but
not a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from resnet_jax.ops import conv_cpu, conv_spec, conv_tpu
from resnet_jax.ops.conv_spec import ConvSpec
from resnet_jax.ops.exported import keeps_own_forms
from resnet_jax.ops.lowering import devices_of_the_compiler, has_own_forms

Form = Callable[[Array, Array, ConvSpec], Array]
Members = tuple[bool, bool]


def _as_lax(form: Form, members: Members) -> Callable[[Array, Array, ConvSpec], Array]:
    """Map ``form`` over the members in the same way as ``jax.vmap`` of ``lax``'s convolution."""
    if not any(members):
        return form
    axes = (0 if members[0] else None, 0 if members[1] else None)
    return lambda a, b, spec: jax.vmap(lambda a, b: form(a, b, spec), axes)(a, b)


def _primitive(name: str, form: Form, cpu_form: Callable[..., Array], tpu_form: Form) -> Primitive:
    """Create a primitive with everything but its derivatives and its batching.

    ``form`` defines it. ``cpu_form(a, b, spec=, devices=)`` is its form on the CPU, where the compiler may split the
    batch over ``devices``. ``tpu_form`` is its form on a TPU if it has groups of several channels.
    """
    primitive = Primitive(name)

    @partial(jax.jit, static_argnames=("spec", "members"))
    def compiled(a, b, spec, members):
        return primitive.bind(a, b, spec=spec, members=members)

    @primitive.def_impl
    def run(a, b, *, spec, members):
        with jax.disable_jit(False):
            return compiled(a, b, spec, members)

    @primitive.def_abstract_eval
    @cache
    def shape(a, b, *, spec, members):
        traced = jax.make_jaxpr(lambda a, b: _as_lax(form, members)(a, b, spec))(a, b)
        return traced.out_avals[0]

    def lower(ctx, a, b, *, spec, members):
        lowered = mlir.lower_fun(lambda a, b: _as_lax(form, members)(a, b, spec), multiple_results=False)
        return lowered(ctx, a, b)

    def lower_on_cpu(ctx, a, b, *, spec, members):
        exported = ctx.module_context.lowering_parameters.for_export  # runs elsewhere, so without this machine's forms
        exported = exported and not keeps_own_forms()
        if exported or not all(has_own_forms(aval) for aval in (*ctx.avals_in, *ctx.avals_out)):
            return lower(ctx, a, b, spec=spec, members=members)
        devices = devices_of_the_compiler(ctx.module_context.axis_context)
        each = partial(cpu_form, spec=spec, devices=devices)
        lowered = mlir.lower_fun(conv_cpu.over_members(each, members), multiple_results=False)
        return lowered(ctx, a, b)

    def lower_on_tpu(ctx, a, b, *, spec, members):
        alone = ctx.avals_out[0] if primitive is input_gradient_p else ctx.avals_in[0]
        if any(members) or spec.groups in (1, alone.shape[-1]):
            return lower(ctx, a, b, spec=spec, members=members)
        return mlir.lower_fun(lambda a, b: tpu_form(a, b, spec), multiple_results=False)(ctx, a, b)

    mlir.register_lowering(primitive, lower)
    mlir.register_lowering(primitive, lower_on_tpu, platform="tpu")
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    return primitive


forward_p = _primitive("conv", conv_spec.forward, conv_cpu.forward, conv_tpu.forward)
input_gradient_p = _primitive(
    "conv_input_gradient", conv_spec.input_gradient, conv_cpu.input_gradient, conv_tpu.input_gradient
)
weight_gradient_p = _primitive(
    "conv_weight_gradient", conv_spec.weight_gradient, conv_cpu.weight_gradient, conv_tpu.weight_gradient
)


def _transpose(primitive: Primitive, position: int, arguments: Callable[[Any, Any, Any], tuple[Any, Any]]):
    """Make the transpose with respect to operand ``position``; ``arguments(cotangent, a, b)`` returns the new
    operands.
    """

    def rule(cotangent, a, b, *, spec, members):
        operands = arguments(cotangent, a, b)
        new_members = arguments(any(members), *members)
        out = primitive.bind(*operands, spec=spec, members=new_members)
        return jnp.sum(out, 0) if any(new_members) and not members[position] else out

    return rule


# The cotangent `c` of each result has the shape of: the output g; the input x; the kernel w.
ad.defbilinear(
    forward_p,  # (x, w) -> g
    _transpose(input_gradient_p, 0, lambda c, _, w: (c, w)),
    _transpose(weight_gradient_p, 1, lambda c, x, _: (x, c)),
)
ad.defbilinear(
    input_gradient_p,  # (g, w) -> x
    _transpose(forward_p, 0, lambda c, _, w: (c, w)),
    _transpose(weight_gradient_p, 1, lambda c, g, _: (c, g)),
)
ad.defbilinear(
    weight_gradient_p,  # (x, g) -> w
    _transpose(input_gradient_p, 0, lambda c, _, g: (g, c)),
    _transpose(forward_p, 1, lambda c, x, _: (x, c)),
)


def _batch(primitive: Primitive, joins_n: bool, operands, axes, *, spec: ConvSpec, members: Members):
    """Batch ``primitive``; with ``joins_n``, an axis that the second operand lacks becomes part of the first's N."""
    a, b = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True))
    batched = tuple(axis is not None for axis in axes)
    bind = partial(primitive.bind, spec=spec)
    if joins_n and not batched[1]:
        at = int(members[0])  # N follows the member axis
        a = jnp.moveaxis(a, 0, at)
        k, n = a.shape[at : at + 2]
        out = bind(a.reshape(*a.shape[:at], k * n, *a.shape[at + 2 :]), b, members=members)
        at = int(any(members))
        return out.reshape(*out.shape[:at], k, n, *out.shape[at + 1 :]), at
    if not any(members):
        return bind(a, b, members=batched), 0
    k = a.shape[0] if batched[0] else b.shape[0]
    m = a.shape[int(batched[0])] if members[0] else b.shape[int(batched[1])]
    a, b = (_pair_axes(x, k, m, *has) for x, *has in zip((a, b), batched, members, strict=True))
    out = bind(a, b, members=tuple(x or y for x, y in zip(batched, members, strict=True)))
    return out.reshape(k, m, *out.shape[1:]), 0


def _pair_axes(x: Array, k: int, m: int, has_k: bool, has_m: bool) -> Array:
    """Give ``x`` one leading axis of ``k * m`` members, unless it has neither of the two axes."""
    if not (has_k or has_m):
        return x
    if not has_k:
        x = x[None]
    if not has_m:
        x = x[:, None]
    return jnp.broadcast_to(x, (k, m, *x.shape[2:])).reshape(k * m, *x.shape[2:])


batching.primitive_batchers[forward_p] = partial(_batch, forward_p, True)
batching.primitive_batchers[input_gradient_p] = partial(_batch, input_gradient_p, True)
batching.primitive_batchers[weight_gradient_p] = partial(_batch, weight_gradient_p, False)
