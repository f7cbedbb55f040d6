r"""Compile the train step of every named network for a chip that need not be present: does it compile, and to what?

    uv run --extra tpu python experiments/chips_matrix.py                     # all for v5e:1x1, low effort: a night
    uv run --extra tpu python experiments/chips_matrix.py --only resnet20_cifar resnet50
    uv run --extra cuda12 python experiments/chips_matrix.py --chips h100
    uv run python experiments/chips_matrix.py --read                          # what was found, as a table

Each network is one line of JSON in ``--out`` (default: experiments/results/chips/<chips>.jsonl), written when it is
done. A second run continues with the missing networks; ``--again`` repeats those that failed. The batch is 128 images
of up to 64 pixels, otherwise 32, and is halved until it fits. The smallest network of each kind comes first, then the
others in order of size, so that problems with a kind show early. Networks of 8 equal blocks or more are computed in a
loop, as with ``execution: auto``. Each compilation needs 2 to 20 GB of memory; two processes may share the work
(``--part 1/2`` and ``--part 2/2``, one ``--out``). A line is right if every convolution is on the MXU (or in cuDNN) and
no activation is transposed by a kernel of its own; ``--read`` ends with 1 if any is not. Input images do not count as
activations: they lie as the host sends them, and with less than 128 per chip the first convolution needs the examples
side by side, so a kernel rearranges them once per step (``input_transposed``).
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import json
import sys
from pathlib import Path
from typing import Any

from resnet_jax.bench.chips.compiled import Request
from resnet_jax.bench.chips.plan import plan_chips, usual_augment
from resnet_jax.bench.chips.table import parse_chips
from resnet_jax.bench.workload import Workload
from resnet_jax.errors import ResNetJaxError
from resnet_jax.models import ModelSpec, count
from resnet_jax.models.layout import LEAST
from resnet_jax.models.rows import MODELS

RESULTS = Path(__file__).parent / "results" / "chips"


def ordered() -> list[str]:
    """Return all networks: the smallest of each kind, then the others; those of least program and parameters first."""

    def cost(name: str) -> tuple[int, int]:
        workload = Workload(ModelSpec(name), 1)
        config = workload.model.config()
        least = LEAST[config.execution] or max(config.stage_sizes)
        blocks = sum(2 if size > least else size for size in config.stage_sizes)  # equal ones are one, in a loop
        return blocks // 16, count(workload.network(), workload.input_shape).params

    smallest = sorted(MODELS, key=cost)
    firsts: dict[tuple[Any, ...], str] = {}
    for name in smallest:
        firsts.setdefault(kind_of(name), name)
    return list(dict.fromkeys([*firsts.values(), *smallest]))


def kind_of(name: str) -> tuple[Any, ...]:
    """Return what a network has in common with those of other depths, widths and rates: its choices by word."""
    config = ModelSpec(name).config()
    values = [getattr(config, field.name) for field in dataclasses.fields(config)]
    return (*(value for value in values if isinstance(value, str | bool | None)), config.groups > 1)


def compile_network(name: str, chips: str, effort: str, batch: int | None, texts: Path | None) -> dict[str, Any]:
    """Compile one network with the largest of the usual batches that fits, and return its line."""
    spec = ModelSpec(name).replace(dtype="bfloat16")
    side = Workload(spec, 1).input_shape[0]
    per_chip = batch or (128 if side <= 64 else 32)
    line: dict[str, Any] = {"model": name, "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"}
    while True:
        workload = Workload(spec, per_chip * parse_chips(chips).count)
        shape = workload.input_shape
        request = Request(workload, chips, usual_augment(shape[0], len(shape) - 1), effort=effort)
        try:
            plan = plan_chips(request, text=str(texts / f"{name}.txt") if texts else None)
        except ResNetJaxError as error:
            return {**line, "chips": chips, "batch_per_chip": per_chip, "failed": str(error)}
        if plan["fits"] or per_chip == 1:
            return {**line, **kept(plan)}
        per_chip //= 2


def kept(plan: dict[str, Any]) -> dict[str, Any]:
    """Return of a plan what a line keeps."""
    names = ("chips", "batch_per_chip", "image_size", "params", "fits", "effort", "versions", "compile_seconds")
    line = {name: plan[name] for name in names} | {"compile_seconds": round(plan["compile_seconds"], 1)}
    if "program" not in plan:
        return {**line, "failed": plan["refused"]}
    program = plan["program"]
    off = collections.Counter(each["target"] for each in program["convolutions_off_unit"])
    alone = [each for each in program["activations_moved"] if each["alone"]]
    images = [plan["batch_per_chip"], plan["image_size"], plan["image_size"]]
    incoming = [each for each in alone if each["what"] == "transposed" and list(each["dims"])[:-1] == images]
    incoming = [each for each in incoming if "ResNet" not in each["source"]]
    alone = [each for each in alone if each not in incoming]
    moved = collections.Counter(f"{each['what']} {each['dtype']}{each['dims']} {each['source']}" for each in alone)
    return {
        **line,
        "kernels": program["kernels"],
        "convolutions": sum(program["convolutions"].values()),
        "off_unit": dict(off),
        "transposed": sum(each["times"] for each in alone if each["what"] == "transposed"),
        "input_transposed": sum(each["times"] for each in incoming),
        "copied": sum(each["times"] for each in alone if each["what"] == "copied"),
        "moved": dict(moved.most_common(4)),
        "bytes_moved": program["bytes_moved"],
        "operations": sum(program["operations"].values()),
        "peak": plan["memory"]["peak"],
        "images_per_second_bound": round(plan["bound"]["images_per_second"], 1),
        "estimated_seconds": plan["compiler"]["estimated_seconds"],
    }


def wrong(line: dict[str, Any]) -> list[str]:
    """Return what a line has that it should not have."""
    if "failed" in line:
        return [f"failed: {line['failed'][:120]}"]
    said = [f"{number} convolutions by {target}" for target, number in line["off_unit"].items()]
    if line["transposed"]:
        said.append(f"{line['transposed']} activations transposed")
    return said


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, of a network the last one."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({line["model"]: line for line in lines}.values())


def table(lines: list[dict[str, Any]], total: int) -> str:
    """Return what was found."""
    rows = [f"{'network':<26}{'batch':>6}{'kernels':>9}{'GiB moved':>11}{'peak GiB':>10}{'bound img/s':>13}  wrong"]
    for line in sorted(lines, key=lambda line: line["model"]):
        if "failed" in line:
            rows.append(f"{line['model']:<26}{line['batch_per_chip']:>6}{'':>43}  {'; '.join(wrong(line))}")
            continue
        rows.append(
            f"{line['model']:<26}{line['batch_per_chip']:>6}{line['kernels']:>9,}{line['bytes_moved'] / 2**30:>11.2f}"
            f"{line['peak'] / 2**30:>10.2f}{line['images_per_second_bound']:>13,.0f}  {'; '.join(wrong(line)) or '-'}"
        )
    good = sum(not wrong(line) for line in lines)
    return "\n".join([*rows, f"{len(lines)} of {total} networks compiled, {good} with nothing wrong"])


def main() -> None:
    """Compile what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chips", default="v5e:1x1")
    parser.add_argument("--effort", choices=("low", "full"), default="low")
    parser.add_argument("--batch", type=int, help="images a chip (default: 128 up to 64 pixels, else 32)")
    parser.add_argument("--only", nargs="+", help="networks (default: all)")
    parser.add_argument("--again", action="store_true", help="compile those again that failed or had something wrong")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every Nth network, from the Kth on")
    parser.add_argument("--texts", type=Path, metavar="FOLDER", help="keep the texts of the programs")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--read", action="store_true", help="compile nothing, print what was found")
    options = parser.parse_args()
    path = options.out or RESULTS / f"{options.chips.replace(':', '-')}.jsonl"
    names = options.only or ordered()
    if not options.read:
        path.parent.mkdir(parents=True, exist_ok=True)
        done = {line["model"] for line in read(path) if not (options.again and wrong(line))}
        part, of = map(int, options.part.split("/"))
        for name in names[part - 1 :: of]:
            if name in done:
                continue
            line = compile_network(name, options.chips, options.effort, options.batch, options.texts)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name}: {'; '.join(wrong(line)) or 'right'}", file=sys.stderr, flush=True)
    lines = [line for line in read(path) if line["model"] in set(names)]
    print(table(lines, len(names)))
    sys.exit(any(wrong(line) for line in lines) or len(lines) < len(names))


if __name__ == "__main__":
    main()
