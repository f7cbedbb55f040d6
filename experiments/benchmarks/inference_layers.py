"""Each convolution of ResNet-50 for inference, with the following bias and ReLU: in several passes, in one, and packed.

Claim: the compiled form runs close to the processor's peak in every layer, for one image and for sixteen.

    python experiments/benchmarks/inference_layers.py [--batch 1 16] [--seconds 1] [--json layers.json]

``plain`` is the convolution of training, with a bias and a ReLU that XLA computes after it; ``one pass`` is
``ops.finished_conv``; ``packed`` is the same with a kernel packed beforehand, where that exists. They run alternately,
one layer at a time, so that its kernel stays in the cache if it fits, which it does not in a network. The figures are
the shortest of all runs, in GFLOP/s of the direct convolution, which Winograd's form exceeds. The peak is that of a
large matrix product in NumPy. A last line sums the time of a whole network, counting each layer as often as it occurs.
To limit a processor with AVX-512 to AVX2, use a compiler wrapper that replaces ``-march=native`` (``CXX``), with a
cache of its own. Hardware: any CPU; a minute for each batch.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import ops
from resnet_jax.bench.processor import describe_processor, processor_line
from resnet_jax.ops import native
from resnet_jax.runtime.malloc import keep_freed_memory

#: How often, and (side, channels in, channels out, window, stride).
LAYERS = [
    (1, (224, 3, 64, 7, 2)),
    (1, (56, 64, 64, 1, 1)),
    (3, (56, 64, 64, 3, 1)),
    (4, (56, 64, 256, 1, 1)),
    (2, (56, 256, 64, 1, 1)),
    (1, (56, 256, 128, 1, 1)),
    (1, (56, 128, 128, 3, 2)),
    (1, (56, 256, 512, 1, 2)),
    (3, (28, 128, 128, 3, 1)),
    (4, (28, 128, 512, 1, 1)),
    (3, (28, 512, 128, 1, 1)),
    (1, (28, 512, 256, 1, 1)),
    (1, (28, 256, 256, 3, 2)),
    (1, (28, 512, 1024, 1, 2)),
    (5, (14, 256, 256, 3, 1)),
    (6, (14, 256, 1024, 1, 1)),
    (5, (14, 1024, 256, 1, 1)),
    (1, (14, 1024, 512, 1, 1)),
    (1, (14, 512, 512, 3, 2)),
    (1, (14, 1024, 2048, 1, 2)),
    (2, (7, 512, 512, 3, 1)),
    (3, (7, 512, 2048, 1, 1)),
    (2, (7, 2048, 512, 1, 1)),
]


def peak(seconds: float) -> float:
    """Return the GFLOP/s of a matrix product."""
    a = np.ones((1536, 1536), np.float32)
    best, end = math.inf, time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * 1536**3 / best / 1e9


def measure(batch: int, layer: tuple[int, int, int, int, int], seconds: float) -> dict:
    """Return the shortest time of each form, and its speed."""
    side, c_in, c_out, window, stride = layer
    rng, pad = np.random.default_rng(0), (window - 1) // 2
    x = jnp.asarray(rng.normal(size=(batch, side, side, c_in)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(window, window, c_in, c_out)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=c_out), jnp.float32)
    sizes: dict[str, Any] = {"strides": (stride,) * 2, "padding": (pad,) * 2}
    forms = {
        "plain": jax.jit(lambda x, bias, kernel: jax.nn.relu(ops.conv(x, kernel, **sizes) + bias)),
        "one pass": jax.jit(lambda x, bias, kernel: ops.finished_conv(x, kernel, bias, relu=True, **sizes)),
    }
    kernels = dict.fromkeys(forms, kernel)
    packed = ops.pack_kernel(kernel, strides=(stride,) * 2)
    if packed is None:
        forms["packed"], kernels["packed"] = forms["one pass"], kernel
    else:
        more = {"window": (window,) * 2, "features": c_out, "relu": True, **sizes}
        forms["packed"] = jax.jit(lambda x, bias, packed: ops.packed_conv(x, packed, bias, **more))
        kernels["packed"] = packed
    size = {name: jax.block_until_ready(form(x, bias, kernels[name])).size for name, form in forms.items()}["plain"]
    best = dict.fromkeys(forms, math.inf)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, form in forms.items():
            began = time.perf_counter()
            jax.block_until_ready(form(x, bias, kernels[name]))
            best[name] = min(best[name], time.perf_counter() - began)
    gflop = 2 * size * window**2 * c_in / 1e9
    speed = {f"{name} GFLOP/s": round(gflop / took, 1) for name, took in best.items()}
    return {"batch": batch, "layer": layer, **{f"{name} ms": took * 1e3 for name, took in best.items()}, **speed}


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each layer")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    processor, most = describe_processor(), peak(3 * arguments.seconds)
    print(f"{processor_line(processor)}; convolutions {native.status()}; matrix product {most:.0f} GFLOP/s")
    rows = []
    for batch in arguments.batch:
        for times, layer in LAYERS:
            row = {"times": times} | measure(batch, layer, arguments.seconds)
            rows.append(row)
            print(
                f"batch {batch:3d} {'x'.join(map(str, layer)):18s} {times} x  plain {row['plain GFLOP/s']:6.1f} "
                f"one pass {row['one pass GFLOP/s']:6.1f} packed {row['packed GFLOP/s']:6.1f} GFLOP/s, "
                f"{row['packed ms']:7.3f} ms, {row['plain ms'] / row['packed ms']:.2f} times faster",
                flush=True,
            )
        sums = {
            name: sum(row["times"] * row[f"{name} ms"] for row in rows if row["batch"] == batch)
            for name in ("plain", "one pass", "packed")
        }
        said = ", ".join(f"{name} {took:.1f} ms" for name, took in sums.items())
        print(f"batch {batch}, all layers: {said}")
    if arguments.json:
        found = {"processor": processor, "matrix_product_gflops": most, "jax": jax.__version__, "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
