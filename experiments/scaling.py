r"""Scaling estimates, checked by compilation: ResNet-50, ResNet-152 and ResNet-1202 on 1 to 1,024 chips.

    uv run --extra tpu python experiments/scaling.py --measure        # compiles each for v5e:2x2; ResNet-50: a minute
    uv run python experiments/scaling.py                              # the tables, from what was compiled
    uv run --extra tpu python experiments/scaling.py --check v5e:4x4  # is a larger slice's program what is said?

The formula and its assumptions are in ``resnet_jax/bench/chips/scaling.py``; experiments/scaling.md discusses the
results. Every time is a lower bound: a real step is slower.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

from resnet_jax.bench.chips.compiled import Request
from resnet_jax.bench.chips.plan import plan_chips, usual_augment
from resnet_jax.bench.chips.scaling import RECIPES, Assumptions, most_chips, scale
from resnet_jax.bench.chips.table import parse_chips
from resnet_jax.bench.workload import Workload
from resnet_jax.models import ModelSpec

RESULTS = Path(__file__).parent / "results" / "chips"
#: Network -> images a chip and what is changed of it.
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet50": (128, {}),
    "resnet152": (64, {}),
    "resnet1202_cifar": (128, {"execution": "scan"}),
}
COUNTS = (1, 4, 16, 64, 256, 1024)


def measure(network: str, chips: str, effort: str) -> dict[str, Any]:
    """Compile a network for a slice, and return what the formula needs."""
    batch, changes = NETWORKS[network]
    workload = Workload(ModelSpec(network).replace(dtype="bfloat16", **changes), batch * parse_chips(chips).count)
    request = Request(workload, chips, usual_augment(workload.input_shape[0], 2), effort=effort)
    plan = plan_chips(request)
    if "program" not in plan:
        sys.exit(f"{network} on {chips}: {plan['refused']}")
    names = (
        "model",
        "chips",
        "batch_per_chip",
        "image_size",
        "params",
        "fits",
        "memory",
        "bound",
        "versions",
        "effort",
    )
    return {
        **{name: plan[name] for name in names},
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "state_bytes": sum(size for name, size in plan["arguments"].items() if name != "batch"),
        "serial_collectives": plan["program"]["serial_collectives"],
        "collectives": plan["program"]["each_collective"],
        "kernels": plan["program"]["kernels"],
        "bytes_moved": plan["program"]["bytes_moved"],
        "operations": plan["program"]["operations"],
    }


def table(record: dict[str, Any], assumed: Assumptions) -> str:
    """Return what follows for 1 to 1,024 chips."""
    lines = [
        f"{record['model']}, {record['batch_per_chip']} images a chip, {record['chips'].partition(':')[0]}; "
        f"{record['serial_collectives']} waits of a step, {record['bound']['kernels'] * 1e3:.2f} ms of kernels at best",
        f"{'chips':>6}{'batch':>9}{'step ms':>9}{'waits':>8}{'links':>8}{'images/s':>12}{'effic.':>8}{'decode':>8}"
        f"{'network':>9}{'hours':>8}{'dollars':>9}  recipe",
    ]
    for count in COUNTS:
        point = scale(record, count, assumed)
        shares = f"{point.efficiency:>8.1%}{point.decode_share:>8.1%}{point.network_share:>9.1%}"
        lines.append(
            f"{point.chips:>6,}{point.batch:>9,}{1e3 * point.step:>9.2f}{1e3 * point.waits:>8.2f}"
            f"{1e3 * point.links:>8.2f}{point.images_a_second:>12,.0f}{shares}{point.hours:>8.2f}"
            f"{point.dollars:>9,.2f}  {point.recipe or 'none known'}"
        )
    lines += [f"{recipe.name}: up to {most_chips(record, recipe)} chips ({recipe.source})" for recipe in RECIPES]
    return "\n".join(lines)


def main() -> None:
    """Compile, check or print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--measure", action="store_true", help="compile, and keep what is found")
    parser.add_argument("--check", metavar="CHIPS", help="compile for another slice and compare it with the formula")
    parser.add_argument("--effort", choices=("low", "full"), default="low")
    options = parser.parse_args()
    assumed = Assumptions()
    if not options.measure:
        print("put in beside the compiled programs:", assumed.table(), sep="\n")
    for network in options.only:
        path = RESULTS / f"scaling-{network}.json"
        if options.measure:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(measure(network, "v5e:2x2", options.effort), indent=1) + "\n")
        if not path.exists():
            print(f"{network}: not compiled yet; see --measure")
            continue
        record = json.loads(path.read_text())
        print("\n" + table(record, assumed))
        if options.check:
            found, point = (
                measure(network, options.check, options.effort),
                scale(record, parse_chips(options.check).count),
            )
            print(f"{options.check}: compiled {found['bound']['step'] * 1e3:.3f} ms, formula {point.step * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
