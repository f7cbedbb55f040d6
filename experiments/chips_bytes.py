r"""Memory traffic of a compiled train step by kind of kernel, next to the minimum that each kind needs.

    resnet-jax plan resnet50 --chips h100 --batch-per-chip 256 --text FILE
    python experiments/chips_bytes.py FILE --network resnet50 --batch 256 --out experiments/results/chips/bytes.json

It takes seconds. The minimum is for kernels that read each array once and keep nothing from one to the next: every
convolution is a kernel of its own, and each batch norm, in bfloat16, has one pass each for statistics, normalization,
both sums of the gradient, and the gradient. Let P be the bytes of a convolution's output and B those of a block's
output:

* statistics P, normalization 2 P, sums 2 P, gradient 3 P; the end of a block adds the skip (and its norm): 3 B;
* its gradient is masked where it is summed: 4 B (gradient, output and the last convolution's output read, the masked
  gradient written), or 5 B with a projection's norm, and then 3 B, or 5 B;
* convolutions: in and out; the first of a block adds the gradient of the skip to its own. Kernels are left out.

``--before`` names the text of an earlier version's program to compare with.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
from pathlib import Path

from resnet_jax.bench.chips.hlo import Computation, Instruction, Module, parse
from resnet_jax.bench.chips.program import scheduled
from resnet_jax.bench.chips.table import GIB
from resnet_jax.bench.chips.traffic import NOTHING, bytes_moved
from resnet_jax.bench.workload import Workload
from resnet_jax.models import ModelSpec
from resnet_jax.models.branches import branch_convs
from resnet_jax.models.plan import plan_stages, projects

#: Arrays of fewer bytes are parameters, statistics and sums; so are those of a kernel that moves fewer.
ACTIVATION = 2**22


def kind_of(module: Module, computation: Computation, each: Instruction) -> str:
    """Return what a kernel of a step of a network of ours, or of plain Flax's, is for."""
    found = re.search(r'op_name="([^"]*)"', each.attributes)
    source = found[1] if found else ""
    backward = "transpose(" in source
    inside = [each, *(inner for _, inner in module.inside(each))]
    targets = " ".join(inner.target for inner in inside)
    if "$conv" in targets or "cublas" in targets or any(inner.op in ("dot", "convolution") for inner in inside):
        if "head" in source:
            return "classifier"
        if "BackwardFilter" in targets:
            return "convolution, kernel's gradient"
        return "convolution, input's gradient" if backward else "convolution, forward"
    operands = [array for name in each.operands for array in computation.by_name[name].results]
    large = [array for array in operands if array.bytes >= ACTIVATION and array.dtype != "f32"]
    written = [array for array in each.results if array.bytes >= ACTIVATION and array.dtype != "f32"]
    dtypes = {array.dtype for array in (*large, *written)}
    if not large and not written:
        return "optimizer"
    if "u8" in dtypes:
        return "images"
    if "s8" in dtypes:  # the places of maxima
        return "max pooling"
    if each.kind == "kInput":
        return "norm, sums of the gradient" if backward else "norm, statistics"
    if not backward or any(array.dtype == "pred" for array in written):
        return "normalization"
    return "mask alone" if len(large) == 1 and "select" in each.name else "norm, gradient"


def table(text: str) -> dict[str, dict[str, int]]:
    """Return kernels and bytes by kind."""
    module = parse(text)
    kernels: collections.Counter[str] = collections.Counter()
    moved: collections.Counter[str] = collections.Counter()
    for computation, each, times in scheduled(module, module.entry, {}):
        if each.op not in NOTHING:
            size = bytes_moved(module, computation, each)
            kind = kind_of(module, computation, each) if size >= ACTIVATION else f"kernels below {ACTIVATION >> 20} MiB"
            kernels[kind] += times
            moved[kind] += times * size
    return {kind: {"kernels": kernels[kind], "bytes": count} for kind, count in moved.most_common()}


def floor(network: str, batch: int) -> dict[str, int]:
    """Return the fewest bytes by kind of a bottleneck or basic network in bfloat16; see the module."""
    workload = Workload(ModelSpec(network).replace(dtype="bfloat16"), batch)
    config, side = workload.model.config(), workload.input_shape[0]
    total: collections.Counter[str] = collections.Counter()

    def convolution(taken: int, given: int, *, of_images: bool = False, added: int = 0) -> None:
        total["convolution, forward"] += taken + given
        total["convolution, kernel's gradient"] += taken + given
        total["convolution, input's gradient"] += 0 if of_images else taken + given + added
        total["norm, statistics"] += given

    def inner(given: int) -> None:
        total["normalization"] += 2 * given
        total["norm, sums of the gradient"] += 2 * given
        total["norm, gradient"] += 3 * given

    images = batch * side**2 * config.in_channels
    total["images"] = 3 * images  # uint8 to bfloat16
    side //= 2 if config.stem == "imagenet" else 1
    stem = 2 * batch * side**2 * config.widths[0]
    convolution(2 * images, stem, of_images=True)
    inner(stem)
    if config.stem == "imagenet":
        side //= 2
        total["max pooling"] = 2 * (stem + stem // 4 + stem // 8)  # with a byte for the place of each maximum
    for block in (each for stage in plan_stages(config) for each in stage):
        taken = entering = 2 * batch * side**2 * block.in_features
        convs, at = branch_convs(config, block), side
        for number, each in enumerate(convs):
            at //= each.strides
            given = 2 * batch * at**2 * each.features
            convolution(taken, given, added=entering if number == 0 else 0)
            if number < len(convs) - 1:
                inner(given)
            taken = given
        side, out, more = at, taken, projects(config, block)
        if more:
            convolution(entering, out)
        total["normalization"] += 3 * out
        total["norm, sums of the gradient"] += (5 if more else 4) * out
        total["norm, gradient"] += (5 if more else 3) * out
    return dict(total)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--before", type=Path, help="the text of an earlier version's program")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sides = {"now": table(options.text.read_text())}
    if options.before:
        sides["before"] = table(options.before.read_text())
    least = floor(options.network, options.batch)
    kinds = list(dict.fromkeys([*(kind for side in sides.values() for kind in side), *least]))
    print(f"| kind of kernel | {' | '.join(f'kernels, {side} | GiB, {side}' for side in sides)} | GiB, floor |")
    print("|---|" + "---:|" * (2 * len(sides) + 1))
    none = {"kernels": 0, "bytes": 0}
    for kind in kinds:
        rows = [side.get(kind, none) for side in sides.values()]
        cells = [f"{row['kernels']:,} | {row['bytes'] / GIB:.2f}" for row in rows]
        print(f"| {kind} | {' | '.join(cells)} | {least.get(kind, 0) / GIB:.2f} |")
    sums = [
        f"{sum(row['kernels'] for row in side.values()):,} | {sum(row['bytes'] for row in side.values()) / GIB:.2f}"
        for side in sides.values()
    ]
    print(f"| all | {' | '.join(sums)} | {sum(least.values()) / GIB:.2f} |")
    if options.out:
        found = {"network": options.network, "batch": options.batch, **sides, "floor": least}
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
