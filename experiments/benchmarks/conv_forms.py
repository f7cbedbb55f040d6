"""The CPU's forms of a convolution compared with ``lax``'s own, shape by shape, outside and inside a loop.

Claim: no form is slower than what ``lax.conv_general_dilated`` and its autodiff compile to, and inside ``scan`` the
gradients avoid the slow path that is 10 to 27 times slower.

    python experiments/benchmarks/conv_forms.py [--network resnet20_cifar] [--seconds 2] [--json forms.json]

Each row is one distinct convolution of the network and one operation. ``lax`` and our form run alternately. The figure
is the shortest of all runs, in GFLOP/s of the direct convolution, and the ratio says how many times faster ours is. CPU
seconds are those of all threads, which is the steadier figure on a machine with other work. Hardware: any CPU; a few
minutes for one network.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from resnet_jax import ops
from resnet_jax.ops import conv_spec
from resnet_jax.ops.conv_spec import ConvSpec
from resnet_jax.training.compile import STEP_OPTIONS

#: (batch, side, channels in, channels out, window, stride) of the distinct convolutions.
NETWORKS = {
    "resnet20_cifar": [
        (128, 32, 3, 16, 3, 1),
        (128, 32, 16, 16, 3, 1),
        (128, 32, 16, 32, 3, 2),
        (128, 16, 32, 32, 3, 1),
        (128, 16, 32, 64, 3, 2),
        (128, 8, 64, 64, 3, 1),
    ],
    "resnet50": [
        (16, 224, 3, 64, 7, 2),
        (16, 56, 64, 64, 1, 1),
        (16, 56, 64, 64, 3, 1),
        (16, 56, 64, 256, 1, 1),
        (16, 56, 256, 64, 1, 1),
        (16, 56, 128, 128, 3, 2),
        (16, 56, 256, 512, 1, 2),
        (16, 28, 128, 128, 3, 1),
        (16, 28, 128, 512, 1, 1),
        (16, 28, 512, 128, 1, 1),
        (16, 28, 256, 256, 3, 2),
        (16, 28, 512, 1024, 1, 2),
        (16, 14, 256, 256, 3, 1),
        (16, 14, 256, 1024, 1, 1),
        (16, 14, 1024, 256, 1, 1),
        (16, 14, 512, 512, 3, 2),
        (16, 14, 1024, 2048, 1, 2),
        (16, 7, 512, 512, 3, 1),
        (16, 7, 512, 2048, 1, 1),
        (16, 7, 2048, 512, 1, 1),
    ],
    "volumes": [
        (32, 28, 1, 32, 3, 1),
        (32, 28, 1, 64, 7, 2),
        (32, 28, 16, 16, 3, 1),
        (32, 14, 64, 64, 3, 1),
        (32, 7, 64, 128, 3, 2),
        (32, 4, 128, 128, 3, 1),
    ],
    "signals": [(32, 1024, 1, 64, 7, 1), (32, 1024, 64, 64, 3, 1), (32, 512, 64, 128, 3, 2)],
}
#: Spatial dimensions of those that are not of images.
DIMENSIONS = {"volumes": 3, "signals": 1}
Operation = Callable[[Array, Array], Array]


def operations(spec: ConvSpec, conv: Operation) -> dict[str, Operation]:
    """Return the forward operation and both gradients of ``conv``, as functions of the two operands they need."""

    def input_gradient(g: Array, w: Array) -> Array:
        x = jax.ShapeDtypeStruct((g.shape[0], *spec.size, w.shape[-2]), g.dtype)
        return jax.linear_transpose(lambda x: conv(x, w), x)(g)[0]

    def weight_gradient(x: Array, g: Array) -> Array:
        w = jax.ShapeDtypeStruct((*spec.window, x.shape[-1], g.shape[-1]), g.dtype)
        return jax.linear_transpose(lambda w: conv(x, w), w)(g)[0]

    return {"forward": conv, "input gradient": input_gradient, "weight gradient": weight_gradient}


def in_loop(operation: Operation) -> Operation:
    """Run the operation in the body of a loop that is passed once, and that the compiler cannot remove."""

    def looped(a: Array, b: Array) -> Array:
        start = jnp.zeros(jax.eval_shape(operation, a, b).shape, a.dtype)
        return lax.fori_loop(0, 1 + (a.ravel()[0] > np.inf).astype(jnp.int32), lambda _, s: s + operation(a, b), start)

    return looped


def shortest(functions: dict[str, Operation], operands: tuple[Array, Array], seconds: float) -> dict[str, list[float]]:
    """Return the shortest wall time and CPU time of each function, run alternately for about ``seconds``."""
    options = STEP_OPTIONS.get(jax.default_backend())
    compiled = {name: jax.jit(f, compiler_options=options).lower(*operands).compile() for name, f in functions.items()}
    for function in compiled.values():
        jax.block_until_ready(function(*operands))
    best = {name: [math.inf, math.inf] for name in compiled}
    end, rounds = time.monotonic() + seconds, 0
    while rounds < 3 or time.monotonic() < end:
        rounds += 1
        for name, function in compiled.items():
            cpu, wall = time.process_time(), time.perf_counter()
            jax.block_until_ready(function(*operands))
            times = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = [min(old, new) for old, new in zip(best[name], times, strict=True)]
    return best


def measure(shape: tuple[int, int, int, int, int, int], seconds: float, dims: int = 2) -> list[dict]:
    """Return a row for each operation of one convolution, outside and inside a loop."""
    n, side, c_in, c_out, window, stride = shape
    pad = (window - 1) // 2
    spec = ConvSpec((side,) * dims, (window,) * dims, (stride,) * dims, (pad,) * dims, (1,) * dims)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(n, *spec.size, c_in)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*spec.window, c_in, c_out)), jnp.float32)
    g = conv_spec.forward(x, w, spec)
    operands = {"forward": (x, w), "input gradient": (g, w), "weight gradient": (x, g)}
    ours = operations(spec, lambda x, w: ops.conv(x, w, strides=spec.strides, padding=spec.padding))
    theirs = operations(spec, lambda x, w: conv_spec.forward(x, w, spec))
    gflop = 2 * g.size * window**dims * c_in / 1e9
    rows = []
    for name, pair in operands.items():
        for where, wrap in {"outside": lambda f: f, "in loop": in_loop}.items():
            best = shortest({"lax": wrap(theirs[name]), "ours": wrap(ours[name])}, pair, seconds)
            row = {"shape": shape, "operation": name, "where": where}
            for kind, index in {"wall": 0, "cpu": 1}.items():
                row |= {f"{who}_{kind}": round(gflop / best[who][index], 1) for who in best}
                row[f"ratio_{kind}"] = round(best["lax"][index] / best["ours"][index], 2)
            rows.append(row)
            print(
                f"{'x'.join(map(str, shape)):22s} {name:16s} {where:8s} lax {row['lax_wall']:6} ours "
                f"{row['ours_wall']:6} GFLOP/s, ratio {row['ratio_wall']:5} (CPU seconds: {row['ratio_cpu']})",
                flush=True,
            )
    return rows


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [
        {"network": network} | row
        for network in arguments.network or NETWORKS
        for shape in NETWORKS[network]
        for row in measure(shape, arguments.seconds, DIMENSIONS.get(network, 2))
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps({"jax": jax.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
