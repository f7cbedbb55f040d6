r"""Speed of a jax export on a CPU: the network as a run computes it, its portable export and its native export.

    uv run python experiments/export_speed.py resnet20_cifar resnet18 --batch 1 16

Weights are random. All forms of a network take turns, and the ratio is the median over the rounds. It needs any CPU
with a C++ compiler, and about a minute for each network and batch on two cores. Writes
results/export/NETWORK-batchN.json.

========  ======================================================================================================
run       as ``predict`` computes: batch norm folded, kernels packed, the convolutions compiled for the processor
native    the same calls in an export for this machine, kernels not packed (``ops.exported_for_this_machine``)
portable  what ``resnet-jax export --format jax`` writes: XLA's forms of all operations
========  ======================================================================================================
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from resnet_jax import ops
from resnet_jax.deploy.quantize.measure import Processor
from resnet_jax.models import create_model
from resnet_jax.runtime.files import write_whole
from resnet_jax.weights.fold import fold_batch_norm
from resnet_jax.weights.prepare import prepare_for_inference

RESULTS = Path(__file__).parent / "results" / "export"


def forms_of(name: str, batch: int) -> dict[str, Callable[[], Any]]:
    """Return the compiled forms of a network, each a call without arguments."""
    stem: dict[str, Any] = {"stem": "cifar"} if name == "resnet18" else {}
    model = create_model(name, num_classes=10, **stem)
    shape = (32, 32, 3) if name.endswith("cifar") or stem else (224, 224, 3)
    images = np.random.default_rng(0).standard_normal((batch, *shape), np.float32)
    variables: Any = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(0))
    folded, plain = fold_batch_norm(model, variables)
    fast, prepared = prepare_for_inference(model, variables, shape)
    program = jax.jit(lambda variables, images: folded.apply(variables, images, train=False))
    any_batch = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *shape), np.float32)
    portable = export.export(program, platforms=("cpu", "cuda", "tpu"))(plain, any_batch)
    with ops.exported_for_this_machine():
        native = export.export(program, platforms=("cpu",), disabled_checks=ops.native_calls())(plain, images)
    images = jax.device_put(images)

    def call(function: Any, variables: Any) -> Callable[[], Any]:
        compiled = jax.jit(function).lower(variables, images).compile()
        return lambda: jax.block_until_ready(compiled(variables, images))

    found = {
        "run": call(lambda variables, images: fast.apply(variables, images, train=False), prepared),
        "native": call(native.call, plain),
        "portable": call(portable.call, plain),
    }
    logits = {form: np.asarray(each()) for form, each in found.items()}
    for form in ("native", "portable"):
        assert np.allclose(logits[form], logits["run"], atol=1e-4 * np.abs(logits["run"]).max()), form
    return found


def measured(forms: dict[str, Callable[[], Any]], batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Return images per second and the ratio to the run, medians of rounds in which the forms take turns."""
    times: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form, call in forms.items():
            call()
            calls, began = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - began < seconds:
                call()
                calls += 1
            times[form].append((time.perf_counter() - began) / calls)
    first = np.asarray(times["run"])
    return {
        form: {"images_per_second": batch / np.median(each), "times_run": float(np.median(first / np.asarray(each)))}
        for form, each in times.items()
    }


def main() -> None:
    """Measure and print a line for each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    processor = dataclasses.asdict(Processor.here())
    print(processor)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.networks:
        for batch in options.batch:
            found = measured(forms_of(name, batch), batch, options.rounds, options.seconds)
            for form, each in found.items():
                print(
                    f"{name} batch {batch}: {form:8} {each['images_per_second']:.0f} images/s, {each['times_run']:.2f}x"
                )
            text = json.dumps({"processor": processor, "rounds": options.rounds, **found}, indent=1)
            write_whole(RESULTS / f"{name}-batch{batch}.json", text + "\n")


if __name__ == "__main__":
    main()
