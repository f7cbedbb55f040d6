"""The algorithm for each operation of a convolution on the CPU, and the reasons.

On one device, float32 images with the same stride of 1 or 2 for both axes and neither dilation nor groups use the
compiled form of :mod:`~resnet_jax.ops.native` if there is a compiler, and so do volumes and signals, as images
(:mod:`~resnet_jax.ops.conv_slices`). In GFLOP/s of one core of an AMD EPYC (Zen 5, AVX-512, two cores; CPU seconds,
because the machine had other work; jax 0.10.2, including the clearing of new memory for the result), the forms of the
second table come first, then the compiled one:

=================================  ===========  ==============  ===============
convolution                        forward      input gradient  weight gradient
=================================  ===========  ==============  ===============
3x3, 16 channels, 128x32x32        91, 186      91, 185         107, 180
3x3, 32 channels, 128x16x16        213, 262     210, 280        112, 246
3x3, 64 channels, 128x8x8          239, 385     235, 393        115, 334
3x3, 64 channels, 16x56x56         289, 379     294, 374        85, 335
3x3, 256 channels, 16x14x14        221, 463     213, 454        207, 389
1x1, 1024 to 256, 16x14x14         217, 224     233, 235        172, 187
3x3 stride 2, 256, 16x28x28        164, 232     193, 234        104, 201
7x7 stride 2, 3 to 64, 16x224x224  107, 103     25, 38          34, 203
=================================  ===========  ==============  ===============

Everything else, and everything if there is no compiler or if XLA's compiler may split the arrays, uses the forms below.
They were measured on two AMD cores with AVX2 against Eigen's convolutions (training/compile.py);
``experiments/benchmarks/conv_forms.py`` prints the table for your machine.

============================  =====================  =================================================================
convolution                   form                   reason
============================  =====================  =================================================================
one tap, no padding           matrix product         as fast in loops as outside them
3x3, stride 1, many channels  Winograd F(2x2, 3x3)   alone 1.2 to 1.4 times faster from 64 channels, forward and input
                                                     gradient; 1.0 to 1.1 within four layers and their gradients
other stride-1 images         product of rows        weight gradient only: 0.8 to 1.3, and as fast in loops
everything else               canonical convolution  the same sums, 10 to 60 times faster in loops and with groups
============================  =====================  =================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

from resnet_jax.ops import conv_canonical, conv_rows, conv_slices, conv_spec, native, tiles, winograd
from resnet_jax.ops.conv_spec import ConvSpec

#: Minimum number of channels, in and out, for which Winograd's 16 products are worth its transforms.
WINOGRAD_CHANNELS = 64
#: Maximum number of members of a population that are computed one after another in the program's text; more run in a
#: loop. A Jacobian is a population with one member for each number of a kernel.
UNROLLED_MEMBERS = 16
#: Bytes of intermediate results per tile: part of a core's second- and third-level cache.
WINOGRAD_TILE_BYTES = 2 << 20
ROWS_TILE_BYTES = 1 << 20


def over_members(form: Callable[[Array, Array], Array], members: tuple[bool, bool]) -> Callable[[Array, Array], Array]:
    """Apply ``form`` to one member after another, because a grouped convolution is slower here than its groups."""
    if not any(members):
        return form

    def each(a: Array, b: Array) -> Array:
        def one(i: int | Array) -> Array:
            return form(a[i] if members[0] else a, b[i] if members[1] else b)

        k = a.shape[0] if members[0] else b.shape[0]
        return jnp.stack([one(i) for i in range(k)]) if k <= UNROLLED_MEMBERS else lax.map(one, jnp.arange(k))

    return each


def forward(x: Array, w: Array, *, spec: ConvSpec, devices: int) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.forward`."""
    if (compiled := _compiled(spec, x.dtype, devices)) is not None:
        return compiled.forward(x, w, spec)
    if _is_pointwise(spec):
        return conv_canonical.pointwise_forward(x, w, spec)
    if _takes_winograd(x, w.shape[-1], spec, devices):
        return _winograd(x, w, devices)
    return conv_spec.forward(x, w, spec)


def input_gradient(g: Array, w: Array, *, spec: ConvSpec, devices: int) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.input_gradient`."""
    if (compiled := _compiled(spec, g.dtype, devices)) is not None:
        return compiled.input_gradient(g, w, spec)
    if _is_pointwise(spec):
        return conv_canonical.pointwise_input_gradient(g, w, spec)
    if _takes_winograd(g, w.shape[-2], spec, devices):
        return _winograd(g, jnp.flip(w, (0, 1)).swapaxes(-2, -1), devices)
    return conv_canonical.input_gradient(g, w, spec)


def weight_gradient(x: Array, g: Array, *, spec: ConvSpec, devices: int) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.weight_gradient`."""
    if (compiled := _compiled(spec, x.dtype, devices)) is not None:
        return compiled.weight_gradient(x, g, spec)
    if _is_pointwise(spec):
        return conv_canonical.pointwise_weight_gradient(x, g, spec)
    if _takes_winograd(x, g.shape[-1], spec, devices):
        size = _images(x, 4 * (x.shape[-1] + g.shape[-1]), devices, WINOGRAD_TILE_BYTES)
        return winograd.kernel_transform_transposed(tiles.sum_tiles(winograd.correlate, x, g, size, devices))
    if _takes_rows(x, g, spec, devices):
        window, padding = spec.window, spec.padding
        copies = window[1] * x.shape[-1] + window[0] * g.shape[-1]
        products = tiles.sum_tiles(
            lambda x, g: conv_rows.correlate(x, g, window, padding),
            x, g, _images(x, copies, devices, ROWS_TILE_BYTES), devices,
        )  # fmt: skip
        return conv_rows.to_kernel(products, window, g.shape[-1])
    if spec.groups > 1 and devices > 1:
        return conv_canonical.weight_gradient_by_taps(x, g, spec)
    return conv_canonical.weight_gradient(x, g, spec)


def _compiled(spec: ConvSpec, dtype: DTypeLike, devices: int) -> Any:
    """Return the module of the compiled forms that support it, or None."""
    if devices != 1:
        return None
    if native.takes(spec, dtype):
        return native
    return conv_slices if not _is_pointwise(spec) and conv_slices.takes(spec, dtype) else None


def _is_pointwise(spec: ConvSpec) -> bool:
    return spec.groups == 1 and not any(spec.padding) and all(tap == 1 for tap in spec.window)


def _takes_winograd(x: Array, c_out: int, spec: ConvSpec, devices: int) -> bool:
    """Whether F(2x2, 3x3) applies and pays off for a convolution of ``x``, whose input gradient has the same form."""
    return (
        _is_plain(x, spec, devices)
        and spec.window == (3, 3)
        and spec.padding == (1, 1)
        and all(size % 2 == 0 for size in spec.size)
        and min(x.shape[-1], c_out) >= WINOGRAD_CHANNELS
    )


def _takes_rows(x: Array, g: Array, spec: ConvSpec, devices: int) -> bool:
    return _is_plain(x, spec, devices) and x.shape[-1] >= 8 and g.shape[-1] >= 8


def _is_plain(x: Array, spec: ConvSpec, devices: int) -> bool:
    """Whether this is a float32 convolution over images, without stride, dilation or groups, that can be tiled."""
    ones = (1, 1)
    return (
        x.dtype == jnp.float32
        and spec.strides == spec.dilation == ones
        and spec.groups == 1
        and x.shape[0] % devices == 0
    )


def _winograd(x: Array, w: Array, devices: int) -> Array:
    u = winograd.kernel_transform(w)
    size = _images(x, 4 * (x.shape[-1] + w.shape[-1]), devices, WINOGRAD_TILE_BYTES)
    return tiles.map_tiles(lambda tile: winograd.convolve(tile, u), x, size, devices)


def _images(x: Array, per_pixel: int, devices: int, most_bytes: int) -> int:
    """Return the number of images per tile if each of their pixels needs ``per_pixel`` intermediate numbers."""
    n, h, w, _ = x.shape
    return tiles.images_per_tile(n, devices, most_bytes // (h * w * per_pixel * x.dtype.itemsize))
