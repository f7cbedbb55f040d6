"""Moments of each channel over all positions, and its normalization: the parts of batch norm and its gradient.

Arrays are ``(parts, ..., channels)`` and per-channel numbers ``(parts, channels)``: each part has its own.

==================  ============================================  =================================================
operation           of                                            gives
==================  ============================================  =================================================
:func:`moments`     ``x``                                         mean and variance (a mean of squared distances)
:func:`spread`      ``bias``, ``gain``, ``x``, ``mean``           ``bias + gain * (x - mean)``
:func:`collect`     ``g``, ``x``, ``mean``                        sums of ``g`` and of ``g * (x - mean)``
==================  ============================================  =================================================

``spread`` is linear in its first two operands, ``collect`` in its first. Each is the transpose of the other, and the
tangents of ``moments`` are two sums of ``collect``. The gradient of a batch norm therefore takes one pass over its
input and the cotangent for all sums, and one elementwise pass. Both may be *masked*: zero where another ``bias + gain *
(x - mean)`` is not positive. A ``spread`` masked by itself (``activate``) equals one followed by a ReLU; ``gate``
passes the cotangent of ``x``, masked, times the gain. Masks are recomputed where they are used, so they need not be
kept.

On the CPU, XLA sums over positions at a few percent of memory speed, so these sums are compiled there
(``native/norm.cc``). On a GPU the moments take one pass, and each pair of sums two kernels
(:mod:`~resnet_jax.ops.channels_gpu`). On a TPU they take none if numbers close to the means are known
(:mod:`~resnet_jax.ops.channels_tpu`). Everywhere else, in wider floats on the CPU, and where a compiler splits the
batch, they are the plain operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad
from jaxtyping import Array, Float

from resnet_jax.ops import channels_gpu, channels_tpu, native
from resnet_jax.ops.lowering import leading_axis_primitive, vary_alike
from resnet_jax.ops.reference import plain_lax_wanted

PerChannel = Float[Array, "parts c"]


def moments(x: Float[Array, "parts *positions c"], near: PerChannel | None = None) -> tuple[PerChannel, PerChannel]:
    """Return mean and variance over all positions.

    The variance is the mean squared distance from the mean: E[x^2] - E[x]^2 would cancel for ``|mean| >> std``.

    Args:
        x: the array.
        near: numbers computed before ``x``, the closer to the mean the better. With them a TPU takes one pass, with the
            rounding that :mod:`~resnet_jax.ops.channels_tpu` states; pass them if the values of ``x`` have the 8 bits
            of bfloat16. Nothing else depends on them, and neither do derivatives.

    >>> mean, var = moments(jnp.asarray([[[1001.0], [1003.0]]]))
    >>> float(mean[0, 0]), float(var[0, 0])
    (1002.0, 1.0)
    """
    if plain_lax_wanted():
        return _plain_moments(x)
    given = () if near is None else (lax.stop_gradient(near).astype(x.dtype),)
    mean, var = moments_p.bind(*vary_alike(x, *given))
    return mean, var


def normalize(
    x: Float[Array, "parts *positions c"], mean: PerChannel, gain: PerChannel, bias: PerChannel, *, relu: bool = False
) -> Float[Array, "parts *positions c"]:
    """Return ``(x - mean) * gain + bias``, or its positive part.

    >>> row = jnp.ones((1, 1))
    >>> normalize(jnp.asarray([[[1.0], [4.0]]]), 2 * row, 3 * row, row, relu=True).ravel().tolist()
    [0.0, 7.0]
    """
    if plain_lax_wanted():
        (y,) = _plain_spread(bias, gain, x, mean)
        return jax.nn.relu(y) if relu else y
    (y,) = (activate_p if relu else spread_p).bind(*vary_alike(bias, gain, x, mean))
    return y


def _plain_moments(x: Array, *near: Array) -> tuple[Array, Array]:
    del near
    axes = _positions(x)
    mean = jnp.mean(x, axes)
    return mean, jnp.mean(jnp.square(x - _over(mean, x)), axes)


def _plain_spread(bias: Array, gain: Array, x: Array, mean: Array, *mask: Array) -> tuple[Array]:
    distance = x - _over(mean, x)
    value = distance * _over(gain, x) + _over(bias, x)
    return (_masked(value, distance, mask),)


def _plain_collect(g: Array, x: Array, mean: Array, *mask: Array) -> tuple[Array, Array]:
    distance = x - _over(mean, x)
    g = _masked(g, distance, mask)
    return jnp.sum(g, _positions(x)), jnp.sum(g * distance, _positions(x))


def _plain_activate(bias: Array, gain: Array, x: Array, mean: Array) -> tuple[Array]:
    return _plain_spread(bias, gain, x, mean, bias, gain)


def _activate_on_gpu(bias: Array, gain: Array, x: Array, mean: Array) -> tuple[Array]:
    (value,) = _plain_spread(bias, gain, x, mean)
    return (jnp.maximum(value, jnp.zeros((), value.dtype)),)


def _gate_on_gpu(g: Array, scale: Array, x: Array, mean: Array, *mask: Array) -> tuple[Array]:
    """Return the same; the barrier keeps XLA from merging the comparison with that of others, and from keeping the
    mask.
    """
    numbers = lax.optimization_barrier((scale, mean, *mask)) if mask else (scale, mean)
    return _plain_gate(g, numbers[0], x, *numbers[1:])


def _collect_on_gpu(g: Array, x: Array, mean: Array, *mask: Array) -> tuple[Array, Array]:
    blocks = channels_gpu.MASKED_BLOCKS if mask else channels_gpu.BLOCKS
    g, x = channels_gpu.cut(g, blocks), channels_gpu.cut(x, blocks)
    distance = x - _over(mean, x)
    g = _masked(g, distance, mask)
    return channels_gpu.pair_of_sums(g, g * distance)


def _plain_gate(g: Array, scale: Array, x: Array, mean: Array, *mask: Array) -> tuple[Array]:
    return (_masked(g, x - _over(mean, x), mask) * _over(scale, x),)


def _masked(value: Array, distance: Array, mask: Sequence[Array]) -> Array:
    """Keep ``value`` where the mask is positive, or NaN, which must stay visible."""
    if not mask:
        return value
    bias, gain = mask
    switched_off = distance * _over(gain, value) + _over(bias, value) <= 0
    return jnp.where(switched_off, jnp.zeros_like(value), value)


def _positions(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


def _over(channel: Array, x: Array) -> Array:
    return channel.reshape(channel.shape[0], *(1,) * (x.ndim - 2), channel.shape[1])


moments_p = leading_axis_primitive(
    "channel_moments",
    _plain_moments,
    lambda x, *near: native.moments(x),
    lambda x, *near: channels_gpu.moments(x),
    lambda x, *near: channels_tpu.moments(x, *near) if near else _plain_moments(x),
)
spread_p = leading_axis_primitive("channel_spread", _plain_spread)
activate_p = leading_axis_primitive("channel_activate", _plain_activate, on_gpu=_activate_on_gpu)
collect_p = leading_axis_primitive("channel_collect", _plain_collect, native.collect, _collect_on_gpu)
gate_p = leading_axis_primitive("channel_gate", _plain_gate, on_gpu=_gate_on_gpu)


def _moments_jvp(primals, tangents):
    x, dx = primals[0], tangents[0]
    mean, var = moments_p.bind(*primals)
    if isinstance(dx, ad.Zero):
        return (mean, var), tuple(ad.Zero(jax.typeof(a)) for a in (mean, var))
    total, product = collect_p.bind(dx, x, mean)
    count = math.prod(x.shape[1:-1])
    return (mean, var), (total / count, 2 * product / count)


def _spread_jvp(primals, tangents):
    _, gain, x, mean, *mask = primals
    dbias, dgain, dx, dmean, *_ = tangents
    terms = []
    if not all(isinstance(d, ad.Zero) for d in (dbias, dgain, dmean)):
        dbias, dgain, dmean = map(ad.instantiate_zeros, (dbias, dgain, dmean))
        terms += spread_p.bind(dbias - gain * dmean, dgain, x, mean, *mask)
    if not isinstance(dx, ad.Zero):
        terms.append(*(gate_p.bind(dx, gain, x, mean, *mask) if mask else [dx * _over(gain, x)]))
    out = spread_p.bind(*primals)
    return out, [sum(terms[1:], terms[0])] if terms else [ad.Zero(jax.typeof(out[0]))]


def _activate_jvp(primals, tangents):
    bias, gain, *_ = primals
    _, tangent = _spread_jvp((*primals, bias, gain), tangents)
    return activate_p.bind(*primals), tangent


def _collect_jvp(primals, tangents):
    g, x, mean, *mask = primals
    dg, dx, dmean, *_ = tangents
    outs = collect_p.bind(*primals)
    total, product = (ad.Zero(jax.typeof(out)) for out in outs)
    if not isinstance(dg, ad.Zero):
        total, product = collect_p.bind(dg, x, mean, *mask)
    if not (isinstance(dx, ad.Zero) and isinstance(dmean, ad.Zero)):
        moved = ad.instantiate_zeros(dx) - _over(ad.instantiate_zeros(dmean), x)
        seen = _masked(g, x - _over(mean, x), mask)
        product = ad.instantiate_zeros(product) + jnp.sum(seen * moved, _positions(x))
    return outs, (total, product)


def _gate_jvp(primals, tangents):
    g, scale, *fixed = primals
    dg, dscale, *_ = tangents
    out = gate_p.bind(*primals)
    terms = []
    if not isinstance(dg, ad.Zero):
        terms += gate_p.bind(dg, scale, *fixed)
    if not isinstance(dscale, ad.Zero):
        terms += gate_p.bind(g, dscale, *fixed)
    return out, [sum(terms[1:], terms[0])] if terms else [ad.Zero(jax.typeof(out[0]))]


def _gate_transpose(cotangents, g, scale, *fixed):
    c = ad.instantiate_zeros(cotangents[0])
    if ad.is_undefined_primal(g):
        return *gate_p.bind(c, scale, *fixed), *(None for _ in (scale, *fixed))
    x, mean, *mask = fixed
    seen = _masked(c * g, x - _over(mean, x), mask)
    return None, jnp.sum(seen, _positions(x)), *(None for _ in fixed)


def _spread_transpose(cotangents, bias, gain, *fixed):
    total, product = collect_p.bind(ad.instantiate_zeros(cotangents[0]), *fixed)
    linear = (total if ad.is_undefined_primal(bias) else None, product if ad.is_undefined_primal(gain) else None)
    return *linear, *(None for _ in fixed)


def _collect_transpose(cotangents, g, *fixed):
    del g
    return *spread_p.bind(*map(ad.instantiate_zeros, cotangents), *fixed), *(None for _ in fixed)


ad.primitive_jvps[moments_p] = _moments_jvp
ad.primitive_jvps[spread_p] = _spread_jvp
ad.primitive_jvps[activate_p] = _activate_jvp
ad.primitive_jvps[collect_p] = _collect_jvp
ad.primitive_jvps[gate_p] = _gate_jvp
ad.primitive_transposes[spread_p] = _spread_transpose
ad.primitive_transposes[collect_p] = _collect_transpose
ad.primitive_transposes[gate_p] = _gate_transpose
