"""What a train step on a TPU pod waits for: its collectives when the compiler partitions it, and when it is mapped.

The step is compiled for chips that need not be present (extra ``tpu``), and its program is analyzed: how many
collectives a batch norm waits for in each direction, in how many pieces the gradient is exchanged, and whether anything
runs in the meantime. Time is not measured. 4 chips and the compiler's low effort are enough for the counts; overlapping
needs full effort.

    python experiments/pod_waits.py                                     # ResNet-20, 32 pixels
    python experiments/pod_waits.py --model resnet50 --side 224 --batch-per-chip 64

Writes ``experiments/results/chips/pod_waits_MODEL.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.bench.chips.collectives import Collective
from resnet_jax.bench.chips.described import ENVIRONMENT, LOW_EFFORT, described_devices, require_compiler, versions
from resnet_jax.bench.chips.program import read_program
from resnet_jax.bench.chips.table import parse_chips

#: Bytes of the statistics of a batch norm at most; more is a piece of the gradient.
SMALL = 2**16
RESULTS = Path(__file__).parent / "results" / "chips"


def compiled_text(model: str, chips: str, *, side: int, per_chip: int, mapped: bool, low: bool) -> str:
    """Return the program of a bfloat16 step with SGD, momentum and labels, images as bytes."""
    import jax
    import jax.numpy as jnp
    import optax

    from resnet_jax import create_model, make_train_step
    from resnet_jax.training.compile import compile_train_step
    from resnet_jax.training.placement import Placement
    from resnet_jax.training.state import init_state

    placement = Placement.of(described_devices(parse_chips(chips)))
    network, tx = create_model(model, dtype="bfloat16"), optax.sgd(0.1, momentum=0.9)
    state = jax.eval_shape(lambda key: init_state(network, tx, key, (side, side, 3)), jax.random.key(0))
    shapes = {"image": ((side, side, 3), jnp.uint8), "label": ((), jnp.int32)}
    rows = {
        name: jax.ShapeDtypeStruct((per_chip * placement.size, *shape), dtype, sharding=placement.batch())
        for name, (shape, dtype) in shapes.items()
    }
    step: Any = compile_train_step(
        make_train_step(network, tx, preprocess=lambda _, batch: (batch["image"].astype(jnp.float32) - 128) / 64),
        placement,
        mapped=mapped,
    )
    lowered = step.trace(placement.abstract(state), rows).lower(lowering_platforms=("tpu",))
    return lowered.compile(compiler_options=LOW_EFFORT if low else None).as_text()


def waits(text: str) -> dict[str, Any]:
    """Return what a program waits for."""
    program = read_program(text, platform="tpu")
    forward = [each for each in program.collectives if _of_norm(each) and "transpose(" not in each.source]
    backward = [each for each in program.collectives if _of_norm(each) and "transpose(" in each.source]
    rest = [each for each in program.collectives if not _of_norm(each) or each.bytes > SMALL]
    return {
        "collectives": len(program.collectives),
        "serial": program.serial_collectives,
        "blocking": program.blocking,
        "norms_forward": len(forward),
        "norms_backward": len(backward),
        "bytes_of_norms_forward": sum(each.bytes for each in forward),
        "gradient_pieces": [
            {
                "kind": each.kind,
                "bytes": each.bytes,
                "arrays": each.arrays,
                "overlapped": each.overlapped,
                "with_a_norm": _of_norm(each),
            }
            for each in rest
        ],
        "kernels": program.kernels,
        "bytes_moved": program.bytes_moved,
        "estimated_cycles": program.estimated_cycles,
    }


def _of_norm(each: Collective) -> bool:
    """Whether it is of a batch norm, perhaps joined with a piece of the gradient: it is named after the first."""
    return "norm" in each.source.rsplit("ResNet", 1)[-1]


def main(argv: Sequence[str] | None = None) -> None:
    """Compile, read, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20_cifar")
    parser.add_argument("--chips", default="v5e:2x2")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch-per-chip", type=int, default=128)
    parser.add_argument("--full-effort", action="store_true")
    parser.add_argument("--only", choices=["mapped", "compiler"], help="one side alone; the other's figures stay")
    parser.add_argument("--text", type=Path, help="a folder for the programs' text")
    args = parser.parse_args(argv)
    os.environ.update(ENVIRONMENT)
    require_compiler("tpu")
    path = RESULTS / f"pod_waits_{args.model}{'_full' if args.full_effort else ''}.json"
    known = json.loads(path.read_text())["sides"] if args.only and path.exists() else {}
    given = {key: value for key, value in vars(args).items() if key not in ("text", "only")}
    found: dict[str, Any] = {**given, **versions("tpu"), "date": datetime.date.today().isoformat(), "sides": known}
    for name in ("compiler", "mapped") if args.only is None else (args.only,):
        text = compiled_text(
            args.model, args.chips, side=args.side, per_chip=args.batch_per_chip, mapped=name == "mapped",
            low=not args.full_effort,
        )  # fmt: skip
        if args.text is not None:
            (args.text / f"{args.model}_{name}.txt").write_text(text)
        found["sides"][name] = waits(text)
        pieces = found["sides"][name]["gradient_pieces"]
        print(name, {key: value for key, value in found["sides"][name].items() if key != "gradient_pieces"}, flush=True)
        print(
            f"  gradient in {len(pieces)} pieces, {sum(each['overlapped'] for each in pieces)} overlapped", flush=True
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
