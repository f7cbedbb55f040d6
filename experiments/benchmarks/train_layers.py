"""Each convolution of a network's train step in its three directions: GFLOP/s of a core.

Claim: forward, input gradient and weight gradient run close to a core's peak in every layer.

    python experiments/benchmarks/train_layers.py resnet50 --batch 16 [--out layers.json]

The convolutions are those found by tracing the network's forward pass. Figures use the fewest CPU seconds of several
runs, summed over threads, so they roughly hold on a machine with other work too, although memory and caches are shared.
They count the operations of the direct convolution, which Winograd's form exceeds by up to 2.25. A last line sums the
time of a step's convolutions. Any CPU; about half a minute for ResNet-50.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import create_model
from resnet_jax.bench.processor import describe_processor, processor_line
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.rows import MODELS
from resnet_jax.ops import native
from resnet_jax.ops.conv_primitive import forward_p, input_gradient_p, weight_gradient_p
from resnet_jax.runs.directory import describe_environment
from resnet_jax.runtime.malloc import keep_freed_memory


def convolutions(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a program, and of those inside it, that are convolutions."""
    for equation in jaxpr.eqns:
        if equation.primitive is forward_p:
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from convolutions(inner)


def layers(name: str, batch: int) -> collections.Counter[Any]:
    """Return how often each convolution occurs, by the shapes of image, kernel and result, and its spec."""
    model, side = create_model(name), MODELS[name].image_size
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    variables = abstract_variables(model, images.shape[1:])
    program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
    shapes = (
        (*(v.aval.shape for v in (*equation.invars, *equation.outvars)), equation.params["spec"])
        for equation in convolutions(program.jaxpr)
    )
    return collections.Counter(shapes)


def measure(layer: Any, runs: int) -> dict[str, float]:
    """Return the fewest CPU seconds of each direction."""
    *shapes, spec = layer
    rng = np.random.default_rng(0)
    x, w, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    forms = {"forward": (forward_p, x, w), "input gradient": (input_gradient_p, g, w)}
    forms["weight gradient"] = (weight_gradient_p, x, g)
    if shapes[0][-1] == 3:
        del forms["input gradient"]  # of the images, which nobody asks for
    best = {}
    for direction, (primitive, *operands) in forms.items():
        run = jax.jit(lambda a, b, p=primitive: p.bind(a, b, spec=spec, members=(False, False)))
        jax.block_until_ready(run(*operands))
        best[direction] = math.inf
        for _ in range(runs):
            began = time.process_time()
            jax.block_until_ready(run(*operands))
            best[direction] = min(best[direction], time.process_time() - began)
    return best


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    print(f"{processor_line(describe_processor())}; convolutions {native.status()}")
    rows, sums = [], collections.Counter[str]()
    for layer, times in layers(options.model, options.batch).items():
        (_, side, _, c), (window, *_), (*_, k), spec = layer
        gflop = 2 * math.prod(layer[2]) * math.prod(layer[1][:-1]) / 1e9
        seconds = measure(layer, options.runs)
        sums.update({direction: times * took for direction, took in seconds.items()})
        what = f"{side:3d}^2 {c:4d}->{k:4d} {window}x{window}/{spec.strides[0]}"
        rows.append({"layer": what, "times": times, "gflop": gflop, "cpu_seconds": seconds})
        print(f"{what} {times} x", *(f" {name} {gflop / took:6.1f}" for name, took in seconds.items()), flush=True)
    print("all, CPU ms:", *(f" {name} {1e3 * took:.1f}" for name, took in sums.items()))
    if options.out:
        found = {
            "command": " ".join(["python", "experiments/benchmarks/train_layers.py", *sys.argv[1:]]),
            "date": datetime.date.today().isoformat(), "processor": describe_processor(),
            "environment": describe_environment(), "model": options.model, "batch": options.batch, "rows": rows,
        }  # fmt: skip
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
